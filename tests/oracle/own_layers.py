"""LoRA layers as people write them, for tests of capture: right ones of every shape, and faults to put into them."""

import math

import torch
from torch import nn
from torch.nn import functional as F


class Course(nn.Module):
    """Weights of its own, and no alpha."""

    def __init__(self, in_features, out_features, r=3):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / 4, requires_grad=False)
        self.lora_A = nn.Parameter(torch.randn(r, in_features))
        self.lora_B = nn.Parameter(torch.randn(out_features, r))

    def forward(self, x):
        return x @ self.weight.T + x @ self.lora_A.T @ self.lora_B.T


class Idle(Course):
    """Does nothing with A and B."""

    def forward(self, x):
        return x @ self.weight.T


class Wrapper(nn.Module):
    """Around a linear layer, with factors as x A B multiplies them, and dropout."""

    def __init__(self, linear, rank=3, alpha=7.0, dropout=0.0):
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.alpha, self.rank = alpha, rank
        self.A = nn.Parameter(torch.randn(linear.in_features, rank))
        self.B = nn.Parameter(torch.randn(rank, linear.out_features))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return self.linear(x) + self.alpha / self.rank * (self.dropout(x) @ self.A @ self.B)


class OfLinears(nn.Module):
    """Factors that are linear layers; the scale is alpha."""

    def __init__(self, original_layer, r=3, lora_alpha=0.5):
        super().__init__()
        self.original_layer = original_layer.requires_grad_(False)
        self.lora_alpha = lora_alpha
        self.lora_A = nn.Linear(original_layer.in_features, r, bias=False)
        self.lora_B = nn.Linear(r, original_layer.out_features, bias=False)

    def forward(self, x):
        return self.original_layer(x) + self.lora_alpha * self.lora_B(self.lora_A(x))


class Rank(nn.Module):
    """The scale is alpha / sqrt(r), kept as one number."""

    def __init__(self, base_layer, r=3, alpha=7.0, use_rslora=True):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.r, self.alpha = r, alpha
        self.scaling = alpha / math.sqrt(r) if use_rslora else alpha / r
        self.lora_a = nn.Parameter(torch.randn(r, base_layer.in_features))
        self.lora_b = nn.Parameter(torch.randn(base_layer.out_features, r))

    def forward(self, x):
        return self.base_layer(x) + self.scaling * F.linear(F.linear(x, self.lora_a), self.lora_b)


class Path(nn.Module):
    """The low-rank path alone."""

    def __init__(self, in_dim, out_dim, rank=3, alpha=7.0):
        super().__init__()
        self.A = nn.Parameter(torch.randn(in_dim, rank))
        self.B = nn.Parameter(torch.randn(rank, out_dim))
        self.alpha, self.rank = alpha, rank

    def forward(self, x):
        return self.alpha / self.rank * (x @ self.A @ self.B)


class WithPath(nn.Module):
    """A linear layer and the path beside it, in one module."""

    def __init__(self, linear, rank=3, alpha=7.0):
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.lora = Path(linear.in_features, linear.out_features, rank, alpha)

    def forward(self, x):
        return self.linear(x) + self.lora(x)


class Unnamed(nn.Module):
    """No name says what it is."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner.requires_grad_(False)
        self.first = nn.Parameter(torch.randn(3, inner.in_features))
        self.second = nn.Parameter(torch.randn(inner.out_features, 3))

    def forward(self, x):
        return self.inner(x) + 0.25 * (x @ self.first.T @ self.second.T)


class Parametrization(nn.Module):
    def __init__(self, fan_in, fan_out, rank=3, alpha=7.0):
        super().__init__()
        self.lora_A = nn.Parameter(torch.randn(rank, fan_in))
        self.lora_B = nn.Parameter(torch.randn(fan_out, rank))
        self.scaling = alpha / rank

    def forward(self, W):
        return W + self.scaling * (self.lora_B @ self.lora_A)


def parametrized(linear):
    adapter = Parametrization(linear.in_features, linear.out_features)
    nn.utils.parametrize.register_parametrization(linear.requires_grad_(False), "weight", adapter)
    return linear


class QKV(nn.Module):
    """One projection for q, k and v, of which q and v are adapted."""

    def __init__(self, qkv):
        super().__init__()
        self.qkv, self.dim = qkv.requires_grad_(False), qkv.in_features
        for name in ("q", "v"):
            setattr(self, f"lora_A_{name}", nn.Parameter(torch.randn(3, self.dim)))
            setattr(self, f"lora_B_{name}", nn.Parameter(torch.randn(self.dim, 3)))

    def forward(self, x):
        q, k, v = self.qkv(x).split(self.dim, dim=-1)
        return torch.cat((q + x @ self.lora_A_q.T @ self.lora_B_q.T, k, v + x @ self.lora_A_v.T @ self.lora_B_v.T), -1)


class Embedding(nn.Module):
    def __init__(self, embedding):
        super().__init__()
        self.embedding = embedding.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.randn(3, embedding.num_embeddings))
        self.lora_B = nn.Parameter(torch.randn(embedding.embedding_dim, 3))

    def forward(self, ids):
        return self.embedding(ids) + self.lora_A.T[ids] @ self.lora_B.T


class Attention(nn.Module):
    """Projections with paths of their own outside of them, on q and v."""

    def __init__(self, dim=10):
        super().__init__()
        self.dim = dim
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, nn.Linear(dim, dim).requires_grad_(False))
        self.lora_q, self.lora_v = Path(dim, dim), Path(dim, dim, rank=2)

    def forward(self, x):
        q, k, v = self.q_proj(x) + self.lora_q(x), self.k_proj(x), self.v_proj(x) + self.lora_v(x)
        return self.o_proj(F.scaled_dot_product_attention(q, k, v))


class Block(nn.Module):
    """A transformer's block. adapt(linear) makes a layer; adapt_gate that of the gate."""

    def __init__(self, adapt, adapt_gate, dim=10, hidden=14):
        super().__init__()
        sizes = {"q": (dim, dim), "k": (dim, dim // 2), "v": (dim, dim // 2), "o": (dim, dim)}
        self.attention = nn.ModuleDict({name: adapt(nn.Linear(*size)) for name, size in sizes.items()})
        up, gate, down = nn.Linear(dim, hidden), nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.mlp = nn.ModuleDict({"up": adapt(up), "gate": adapt_gate(gate), "down": adapt(down)})

    def forward(self, x):
        q, k, v, o = self.attention.values()
        heads = (t.unflatten(-1, (-1, 5)).transpose(1, 2) for t in (q(x), k(x), v(x)))
        h = x + o(F.scaled_dot_product_attention(*heads, enable_gqa=True).transpose(1, 2).flatten(2))
        return h + self.mlp["down"](F.silu(self.mlp["gate"](h)) * self.mlp["up"](h))


class Inline(nn.Module):
    """The same with the factors among its own tensors, on q alone."""

    def __init__(self, dim=10):
        super().__init__()
        for name in ("q_proj", "k_proj", "v_proj"):
            setattr(self, name, nn.Linear(dim, dim, bias=False).requires_grad_(False))
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(3, dim)), nn.Parameter(torch.randn(dim, 3))

    def forward(self, x):
        q = self.q_proj(x) + x @ self.lora_A.T @ self.lora_B.T
        return F.scaled_dot_product_attention(q, self.k_proj(x), self.v_proj(x))


class GatedMLP(nn.Module):
    """No LoRA, and its names are down and up."""

    def __init__(self, dim=10, hidden=14):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(dim, hidden, bias=False), nn.Linear(dim, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dim, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Exchanged(nn.Module):
    """A and B mean each other."""

    def __init__(self, base):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_B = nn.Parameter(torch.randn(3, base.in_features))
        self.lora_A = nn.Parameter(torch.randn(base.out_features, 3))

    def forward(self, x):
        return self.base(x) + 0.25 * (x @ self.lora_B.T @ self.lora_A.T)


class Transposed(nn.Module):
    """Its weight is (in, out), as GPT-2's."""

    def __init__(self, nx, nf):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(nx, nf) / 4, requires_grad=False)
        self.bias = nn.Parameter(torch.randn(nf))
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(3, nx)), nn.Parameter(torch.randn(nf, 3))

    def forward(self, x):
        return x @ self.weight + self.bias + x @ self.lora_A.T @ self.lora_B.T


class Keeping(Wrapper):
    """Keeps a tensor of its last call, with its graph."""

    def forward(self, x):
        self.last = x @ self.A
        return self.linear(x) + self.alpha / self.rank * (self.last @ self.B)


class Adjustable(Wrapper):
    def forward(self, x, strength=1.0):
        return self.linear(x) + strength * self.alpha / self.rank * (x @ self.A @ self.B)


class Secretive(Rank):
    """Its constructor wants something that no rule knows, and keeps the scale alone."""

    def __init__(self, base_layer, secret):
        super().__init__(base_layer)
        del self.alpha
        self.scaling = 0.75


class Single(Wrapper):
    """Gives float32 back, whatever it computed in."""

    def forward(self, x):
        return super().forward(x).to(x.dtype)


class Autocast(Single):
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x)


class Mixed(Wrapper):
    """Computes the path in the dtype of A."""

    def forward(self, x):
        path = self.alpha / self.rank * (self.dropout(x.to(self.A.dtype)) @ self.A @ self.B)
        return self.linear(x) + path.to(x.dtype)


# What is not plain LoRA


class Sandwich(nn.Module):
    """A matrix between A and B."""

    def __init__(self, base):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_A, self.lora_B = (nn.Parameter(torch.randn(*shape)) for shape in ((3, 10), (8, 3)))
        self.lora_R = nn.Parameter(torch.randn(3, 3))

    def forward(self, x):
        return self.base(x) + x @ self.lora_A.T @ self.lora_R @ self.lora_B.T


class WithBias(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_A, self.lora_B = nn.Linear(10, 3, bias=False), nn.Linear(3, 8)

    def forward(self, x):
        return self.base(x) + self.lora_B(self.lora_A(x))


def merged(linear):
    layer = Wrapper(linear)
    layer.merged = True
    return layer


class Gated(Wrapper):
    def forward(self, x, gate):
        return self.linear(x) + gate * (x @ self.A @ self.B)


class Dora(Wrapper):
    """Its magnitude is W's at the start."""

    def __init__(self, linear):
        super().__init__(linear)
        self.m = nn.Parameter(linear.weight.detach().norm(dim=1))

    def forward(self, x):
        V = self.linear.weight + (self.A @ self.B).T
        return x @ (self.m / V.norm(dim=1))[:, None].mul(V).T + self.linear.bias


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3).requires_grad_(False)
        self.lora_A, self.lora_B = nn.Conv2d(3, 2, 3, bias=False), nn.Conv2d(2, 8, 1, bias=False)

    def forward(self, x):
        return self.conv(x) + self.lora_B(self.lora_A(x))


# Wrong backwards


class WithoutdA(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, A):
        ctx.save_for_backward(A)
        return x @ A

    @staticmethod
    def backward(ctx, g):
        return g @ ctx.saved_tensors[0].T, None


class WithoutS(torch.autograd.Function):
    """s (x A) B, whose gradient of B lacks s."""

    @staticmethod
    def forward(ctx, x, A, B, s):
        ctx.save_for_backward(x, A, B)
        ctx.s = s
        return s * (x @ A @ B)

    @staticmethod
    def backward(ctx, g):
        x, A, B = ctx.saved_tensors
        rows = lambda t: t.reshape(-1, t.shape[-1])  # noqa: E731
        return ctx.s * (g @ B.T @ A.T), ctx.s * rows(x).T @ rows(g @ B.T), rows(x @ A).T @ rows(g), None


def dropped(layer, x, s):
    """Dropout before both paths."""
    x = layer.dropout(x)
    return layer.linear(x) + s * (x @ layer.A @ layer.B)
