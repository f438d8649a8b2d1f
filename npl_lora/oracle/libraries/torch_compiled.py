"""torch.compile as a subject: LoRA written as an ordinary PyTorch module, compiled by inductor.

This checks PyTorch: the forward and the backward that its compiler makes of modules, each of which is a formula of the
protocol in a few lines. Every case is compiled anew for its shapes and dtype. Graph breaks are refused, so nothing runs
in eager mode.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..case import Case
from .torch_tools import Outputs, differentiate, leaf, micro_batches, run_steps, tensor

_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
}


class _LoRALinear(torch.nn.Module):
    """y = x W^T + b + s (x mask) A^T B^T."""

    def __init__(self, case: Case, n: str = "", W: str = "W") -> None:
        super().__init__()
        self.W, self.A, self.B = tensor(case[W]), _parameter(case, f"A{n}"), _parameter(case, f"B{n}")
        self.b = tensor(case["b"]) if "b" in case else None
        self.mask = tensor(case["mask"]) if "mask" in case else None
        self.s = _scale(case)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        masked = x if self.mask is None else x * self.mask
        return F.linear(x, self.W, self.b) + self.s * F.linear(F.linear(masked, self.A), self.B)

    def delta(self) -> torch.Tensor:
        return self.s * (self.B @ self.A)


class _DoRALinear(_LoRALinear):
    """y = (m / n) x V^T + b with V = W + s B A and n the norms of its rows, held constant."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.m = _parameter(case, "m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        norm = torch.linalg.vector_norm(self.W + self.delta(), dim=1).detach()
        y = (self.m / norm) * (F.linear(x, self.W) + self.s * F.linear(F.linear(x, self.A), self.B))
        return y if self.b is None else y + self.b


class _LoRAConv2d(_LoRALinear):
    """y = conv(x, W) + s conv(conv(x, A), B)."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.places = {name: tuple(case.config[name]) for name in ("stride", "padding", "dilation")}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.W, **self.places) + self.s * F.conv2d(F.conv2d(x, self.A, **self.places), self.B)


class _Attention(torch.nn.Module):
    """Grouped heads, rotated halves, torch's scaled_dot_product_attention."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        for n in "qkvo":
            setattr(self, n, _LoRALinear(case, f"_{n}", f"W{n}"))
        B, T, _ = case["x"].shape
        self.heads, self.groups = case.config["n_heads"], case.config["n_kv_heads"]
        self.D = case["Wq"].shape[0] // self.heads
        visible = torch.ones(T, T, dtype=torch.bool)
        visible = (visible.tril() if case.config["causal"] else visible).expand(B, 1, T, T)
        self.visible = visible & tensor(case["key_mask"])[:, None, None, :] if "key_mask" in case else visible
        self.cos, self.sin = _rotary(case, T, self.D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, _ = x.shape
        q, k, v = (
            p(x).view(B, T, heads, self.D).transpose(1, 2)
            for p, heads in ((self.q, self.heads), (self.k, self.groups), (self.v, self.groups))
        )
        q, k = self._rotate(q), self._rotate(k)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.visible, enable_gqa=self.heads != self.groups)
        return self.o(y.transpose(1, 2).reshape(B, T, self.heads * self.D))

    def _rotate(self, u: torch.Tensor) -> torch.Tensor:
        if self.cos is None:
            return u
        left, right = u.chunk(2, dim=-1)
        return torch.cat((left * self.cos - right * self.sin, right * self.cos + left * self.sin), dim=-1)


class _MLP(torch.nn.Module):
    """down(act(gate(x)) up(x))."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        for n in ("gate", "up", "down"):
            setattr(self, n, _LoRALinear(case, f"_{n}", f"W_{n}"))
        self.act = _ACTIVATIONS[case.config["activation"]]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.act(self.gate(x)) * self.up(x))


class _Embedding(torch.nn.Module):
    """y = E[ids] + s (A^T)[ids] B^T."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.E, self.A, self.B = tensor(case["E"]), _parameter(case, "A"), _parameter(case, "B")
        self.s = _scale(case)
        self.padding_idx = case.config["padding_idx"]

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        low = F.embedding(ids, self.A.T, padding_idx=self.padding_idx)
        return F.embedding(ids, self.E, padding_idx=self.padding_idx) + self.s * F.linear(low, self.B)


def lora_linear(case: Case) -> Outputs:
    """A LoRA layer, compiled."""
    return _run(_LoRALinear(case), case)


def dora_linear(case: Case) -> Outputs:
    """A DoRA layer, compiled."""
    return _run(_DoRALinear(case), case)


def lora_conv2d(case: Case) -> Outputs:
    """A convolution, compiled."""
    return _run(_LoRAConv2d(case), case)


def lora_attention(case: Case) -> Outputs:
    """A block of attention, compiled."""
    return _run(_Attention(case), case)


def lora_mlp(case: Case) -> Outputs:
    """A gated MLP, compiled."""
    return _run(_MLP(case), case)


def lora_embedding(case: Case) -> Outputs:
    """An embedding, compiled."""
    return _run(_Embedding(case), case)


def lora_merge(case: Case) -> Outputs:
    """W + s B A and back, compiled."""
    layer, fan_in_fan_out = _LoRALinear(case), case.config["fan_in_fan_out"]

    def merge(W: torch.Tensor, sign: float) -> torch.Tensor:
        delta = layer.delta()
        return W + sign * (delta.T if fan_in_fan_out else delta)

    compiled = _compile(merge)
    W_merged = compiled(layer.W, 1.0)
    return {"W_merged": W_merged, "W_unmerged": compiled(W_merged.detach(), -1.0)}


def cross_entropy(case: Case) -> Outputs:
    """torch's cross_entropy over the window's micro-batches, summed and divided by the number of labels, compiled."""
    logits, labels = leaf(case["logits"]), tensor(case["labels"])
    ignore_index = case.config["ignore_index"]

    def loss_of(logits: torch.Tensor, labels: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        scores, targets = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        return F.cross_entropy(scores, targets, ignore_index=ignore_index, reduction="sum") / count

    compiled = _compile(loss_of)
    count = (labels[:, 1:] != ignore_index).sum().clamp(min=1)
    loss = sum(compiled(*batch, count) for batch in micro_batches(case, logits, labels))
    loss.backward()
    return {"loss": loss, "dlogits": logits.grad}


def train_steps(case: Case) -> Outputs:
    """The LoRA layer, compiled, trained by torch.optim."""
    layer = _LoRALinear(case)
    steps = run_steps(case, _compile(layer), [layer.A, layer.B])
    return {**steps, "A_after": layer.A, "B_after": layer.B, "W_after": layer.W}


def _compile(function: Any) -> Any:
    """Compile for this case alone: earlier compilations are dropped."""
    torch.compiler.reset()
    return torch.compile(function, fullgraph=True, dynamic=False)


def _run(layer: torch.nn.Module, case: Case) -> Outputs:
    """Compile a module and run it forward and backward. The parameter A of its module q is A_q."""
    trained = {"_".join(reversed(path.split("."))): parameter for path, parameter in layer.named_parameters()}
    return differentiate(_compile(layer), case, trained)


def _scale(case: Case) -> float:
    """s = alpha / r, or alpha / sqrt(r) with rsLoRA."""
    r, alpha = case.config["r"], case.config["alpha"]
    return alpha / math.sqrt(r) if case.config["use_rslora"] else alpha / r


def _parameter(case: Case, name: str) -> torch.nn.Parameter:
    return torch.nn.Parameter(tensor(case[name]))


def _rotary(case: Case, T: int, D: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """cos and sin, (T, D/2), from the protocol's formula in float64."""
    theta = case.config["rope_theta"]
    if theta is None:
        return None, None
    phi = np.arange(T)[:, None] * float(theta) ** (-2.0 * np.arange(D // 2) / D)
    return tensor(np.cos(phi).astype(case.dtype)), tensor(np.sin(phi).astype(case.dtype))
