"""softmax over the last axis, among the entries that are visible.

    y_j = exp(x_j) / sum_k exp(x_k)

Derivation. With [j = k] equal to 1 when j = k and 0 otherwise, dy_j/dx_k = y_j ([j = k] - y_k). So

    dx_k = sum_j dy_j y_j ([j = k] - y_k) = y_k (dy_k - sum_j dy_j y_j)

An invisible entry has y = 0, and so dx = 0. A row with nothing visible is all zeros, forward and backward: it has no
distribution to give, and zeros add nothing to the sums of attention.

The row's largest entry is subtracted first. That changes nothing in exact arithmetic, and keeps exp from overflowing.
"""

from __future__ import annotations

import math

from ._interface import Array, Pullback
from .checks import check_inputs
from .namespace import real


def softmax(
    x: Array,  # (..., n)
    *,
    mask: Array | None = None,  # (..., n), bool, or what broadcasts to it; True where visible
) -> tuple[Array, Pullback]:  # y (..., n)
    """y = softmax(x) over the last axis, among the entries where mask is True.

    Shapes: x (..., n), mask (..., n) or what broadcasts to it -> y (..., n).

    Without a mask, every entry is visible. The pullback differentiates x.
    Raises ValueError when mask does not broadcast to x.
    Derivation: at the top of npl_lora/ops/softmax.py.
    """
    xp, _ = check_inputs(x=(x, "... n"), mask=(mask, None, "bool or None"))
    if mask is not None:
        mask = _broadcast(xp, mask, x.shape)
    y = _softmax(xp, x, mask)

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        if "x" not in wrt:
            return {}
        # forward was: y_j = exp(x_j) / sum_k exp(x_k)
        return {"x": y * (dy - xp.sum(dy * y, axis=-1, keepdims=True))}

    return y, Pullback(backward, y, inputs=("x",))


def _softmax(xp: Array, x: Array, mask: Array | None) -> Array:
    if math.prod(x.shape) == 0:
        return xp.zeros_like(x)  # the maximum of nothing is an error
    zero, hidden = xp.zeros_like(x[..., :1]), xp.full_like(real(x[..., :1]), -math.inf)
    visible = real(x) if mask is None else xp.where(mask, real(x), hidden)
    largest = xp.max(visible, axis=-1, keepdims=True)
    largest = xp.where(xp.isfinite(largest), largest, xp.zeros_like(largest))
    # Mask before exp, which could overflow in a hidden entry, and again after it.
    shifted = x - largest if mask is None else xp.where(mask, x - largest, zero)
    e = xp.exp(shifted) if mask is None else xp.where(mask, xp.exp(shifted), zero)
    total = xp.sum(e, axis=-1, keepdims=True)
    return e / xp.where(total == 0, xp.ones_like(total), total)


def _broadcast(xp: Array, mask: Array, shape: tuple[int, ...]) -> Array:
    try:
        return xp.broadcast_to(mask, shape)
    except ValueError:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}, expected one that broadcasts to {tuple(shape)}"
        ) from None
