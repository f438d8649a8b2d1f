"""softmax over the last axis: y_j = exp(x_j) / sum_k exp(x_k), over the visible entries.

Derivation. dy_j/dx_k = y_j ([j = k] - y_k), so

    dL/dx_k = sum_j dy_j y_j ([j = k] - y_k) = y_k (dy_k - sum_j dy_j y_j)

An invisible entry has y = 0 and so dx = 0; a row with nothing visible is all zeros, forward and backward. (It has no
distribution to give; zeros add nothing to what attention sums up.) The row's largest entry is subtracted first: that
changes nothing in exact arithmetic and keeps exp from overflowing.
"""

import math

from ._interface import Array, Pullback
from .checks import check_inputs
from .namespace import real


def softmax(x: Array, *, mask: Array | None = None) -> tuple[Array, Pullback]:
    """y = softmax(x) over the last axis, among the entries that mask lets be seen.

    x (..., n); mask: bool, broadcastable to x's shape, True where visible, or None -> y (..., n).
    The pullback differentiates x. Raises ValueError when mask does not broadcast to x.
    """
    xp, _ = check_inputs(x=(x, "... n"), mask=(mask, None, "bool or None"))
    if mask is not None:
        mask = _broadcast(xp, mask, x.shape)
    y = _softmax(xp, x, mask)

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        if "x" not in wrt:
            return {}
        return {"x": y * (dy - xp.sum(dy * y, axis=-1, keepdims=True))}

    return y, Pullback(backward, y, inputs=("x",))


def _softmax(xp: Array, x: Array, mask: Array | None) -> Array:
    if math.prod(x.shape) == 0:
        return xp.zeros_like(x)  # max of nothing is an error
    zero, hidden = xp.zeros_like(x[..., :1]), xp.full_like(real(x[..., :1]), -math.inf)
    seen = real(x) if mask is None else xp.where(mask, real(x), hidden)
    largest = xp.max(seen, axis=-1, keepdims=True)
    largest = xp.where(xp.isfinite(largest), largest, xp.zeros_like(largest))
    # Mask before exp, which could overflow where nobody looks, and after it.
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
