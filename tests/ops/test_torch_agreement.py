"""Every op against torch's autograd in float64: each gradient within 1e-12 of S, the size of its terms."""

import math

import pytest
from agreement import assert_close, call, term_sizes
from configurations import build, each_point

pytestmark = pytest.mark.torch


def linear(F, x, W, b=None):
    return F.linear(x, W, b)


def lora_linear(F, x, W, A, B, scale, b=None, mask=None):
    return F.linear(x, W, b) + scale * F.linear(F.linear(x if mask is None else x * mask, A), B)


def dora_linear(F, x, W, A, B, m, n, scale, b=None):
    y = m / n * lora_linear(F, x, W, A, B, scale)
    return y if b is None else y + b


def patches(F, x, kernel, stride, padding, dilation):
    N, _, H, W = x.shape
    unfolded = F.unfold(x, kernel, dilation=dilation, padding=padding, stride=stride)
    size = (H, kernel[0], 0), (W, kernel[1], 1)
    out = [(s + 2 * padding[a] - dilation[a] * (k - 1) - 1) // stride[a] + 1 for s, k, a in size]
    return unfolded.mT.reshape(N, *out, -1)


def lora_conv2d(F, x, W, A, B, scale, **places):
    return F.conv2d(x, W, **places) + scale * F.conv2d(F.conv2d(x, A, **places), B)


def embedding(F, ids, E, padding_idx=None):
    return F.embedding(ids, E, padding_idx=padding_idx)


def lora_embedding(F, ids, E, A, B, scale, padding_idx=None, mask=None):
    h = embedding(F, ids, A.T, padding_idx)
    return embedding(F, ids, E, padding_idx) + scale * (h if mask is None else h * mask) @ B.T


def dropout(F, x, mask):
    return x * mask


def merge(F, W, A, B, scale, fan_in_fan_out=False):
    delta = scale * B @ A
    return W + (delta.T if fan_in_fan_out else delta)


def unmerge(F, W_merged, A, B, scale, fan_in_fan_out=False):
    return merge(F, W_merged, A, B, -scale, fan_in_fan_out)


def combine(F, weights, scales, **factors):
    pairs = [(factors[f"A_{i}"], factors[f"B_{i}"]) for i in range(1, len(weights) + 1)]
    return sum(w * B @ (s * A) for w, s, (A, B) in zip(weights, scales, pairs, strict=True))


def lora_batched(F, x, W, A, B, ids, ranks, scales, b=None):
    """Row by row, with the weight of each row's own adapter."""
    import torch

    deltas = [s * B[k, :, :r] @ A[k, :r] for k, (r, s) in enumerate(zip(ranks, scales, strict=True))]
    weights = [W if k < 0 else W + deltas[k] for k in ids.tolist()]
    return torch.stack([F.linear(row, weight, b) for row, weight in zip(x, weights, strict=True)])


def softmax(F, x, mask=None):
    return _masked_softmax(x, mask)


def _masked_softmax(x, mask):
    """softmax with zeros for rows in which nothing is seen; their scores get no gradient."""
    if mask is None:
        return x.softmax(-1)
    visible = mask.expand(x.shape)
    return x.masked_fill(~visible, -1e300).softmax(-1) * (visible.any(-1, keepdim=True) & visible)


def attention(F, q, k, v, scale=None, causal=False, offset=0, window=None, key_mask=None, softcap=None):
    import torch

    T, S, groups = q.shape[-2], k.shape[-2], q.shape[-3] // k.shape[-3]
    k, v = (t.repeat_interleave(groups, dim=-3) for t in (k, v))
    distance = torch.arange(T)[:, None] + offset - torch.arange(S)[None, :]
    visible = torch.ones(T, S, dtype=torch.bool)
    visible &= (distance >= 0) if causal else visible
    visible &= (distance.abs() < window) if window is not None else visible
    if key_mask is not None:
        visible = visible & key_mask[..., None, None, :]
    scores = q @ k.mT * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    scores = scores if softcap is None else softcap * (scores / softcap).tanh()
    return _masked_softmax(scores, visible) @ v


def rope(F, x, theta=10000.0, start=0, interleaved=False):
    import torch

    T, D = x.shape[-2:]
    i = torch.arange(D // 2, dtype=torch.float64)
    turn = torch.polar(torch.ones(()).double(), (torch.arange(T).double() + start)[:, None] * theta ** (-2 * i / D))
    pairs = x.unflatten(-1, (-1, 2)) if interleaved else x.unflatten(-1, (2, -1)).mT
    turned = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * turn)
    return (turned if interleaved else turned.mT).flatten(-2)


def layer_norm(F, x, w, b, eps):
    return F.layer_norm(x, x.shape[-1:], w, b, eps)


def rms_norm(F, x, w, eps):
    return F.rms_norm(x, x.shape[-1:], w, eps)


def silu(F, z):
    return F.silu(z)


def gelu(F, z):
    """z Phi(z) through erfc. (F.gelu and torch.special.ndtr lose 2e-11 of Phi at z = -4.7 to 1 + erf.)"""
    import torch

    return z * torch.special.erfc(-z * 0.5**0.5) * 0.5


def gelu_tanh(F, z):
    return F.gelu(z, approximate="tanh")


def relu(F, z):
    return F.relu(z)


def tanh(F, z):
    return z.tanh()


def masked_mean(F, x, mask=None):
    visible = x.new_ones(x.shape[:-1]) if mask is None else mask.to(x.dtype)
    return (visible[..., None] * x).sum(-2) / visible.sum(-1, keepdim=True).clamp(min=1)


def glu(F, gate, up, activation):
    return globals()[activation](F, gate) * up


def gated_mlp(F, x, W_gate, W_up, W_down, activation):
    return F.linear(glu(F, F.linear(x, W_gate), F.linear(x, W_up), activation), W_down)


def lora_mlp(F, x, scale, activation, **p):
    gate, up = (lora_linear(F, x, p[f"W_{n}"], p[f"A_{n}"], p[f"B_{n}"], scale) for n in ("gate", "up"))
    return lora_linear(F, glu(F, gate, up, activation), p["W_down"], p["A_down"], p["B_down"], scale)


def lora_attention(F, x, scale, n_heads, n_kv_heads, causal, rope_theta, key_mask=None, **p):
    D = p["Wq"].shape[0] // n_heads
    q, k, v = (lora_linear(F, x, p[f"W{n}"], p[f"A_{n}"], p[f"B_{n}"], scale).unflatten(-1, (-1, D)) for n in "qkv")
    q, k, v = (t.transpose(-2, -3) for t in (q, k, v))
    if rope_theta is not None:
        q, k = rope(F, q, rope_theta), rope(F, k, rope_theta)
    heads = attention(F, q, k, v, causal=causal, key_mask=key_mask).transpose(-2, -3).flatten(-2)
    return lora_linear(F, heads, p["Wo"], p["A_o"], p["B_o"], scale)


def cross_entropy(F, logits, labels, ignore_index=-100, count=None):
    total = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=ignore_index, reduction="sum")
    return total / (count or max(int((labels != ignore_index).sum()), 1))


def mean_squared_error(F, prediction, target, count=None):
    return F.mse_loss(prediction, target, reduction="sum") / (count or prediction.numel())


@pytest.mark.parametrize("seed", range(5))
@each_point()
def test_torch_autograd_agrees(name, point, seed):
    import torch
    import torch.nn.functional as F

    inputs, config = build(name, point | {"seed": seed})
    y, grads, dy = call(name, inputs, config)
    tensors = {n: torch.from_numpy(a.copy()).requires_grad_(n in grads) for n, a in inputs.items()}
    torch_y = globals()[name](F, **tensors, **config)
    torch_y.backward(torch.from_numpy(dy.copy()))
    y_size, sizes = term_sizes(name, inputs, config, dy)
    assert_close(y, torch_y.detach().numpy(), y_size, 1e-12, "y")
    for n, grad in grads.items():
        assert_close(grad, tensors[n].grad.numpy(), sizes[n], 1e-12, f"d{n}")
