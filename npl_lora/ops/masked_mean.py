"""masked_mean: the mean of a sequence's features over its visible positions; padding is left out.

    y = (1 / n) sum_t x_t         over the n positions t that are visible

Derivation. y is linear in x, with factor 1 / n on each visible position and 0 on the others. So dx_t = dy / n where t
is visible, and 0 elsewhere. A sequence with no visible position has no mean: it gives zeros, and passes back zeros.

Source: Reimers and Gurevych, "Sentence-BERT", 2019, section 3, the MEAN strategy.
"""

from __future__ import annotations

from ._interface import Array, Pullback
from .checks import check_inputs


def masked_mean(
    x: Array,  # (..., T, C)
    mask: Array | None = None,  # (..., T), bool, True where visible; None: all are
) -> tuple[Array, Pullback]:  # y (..., C)
    """y = the mean of x over the positions where mask is True.

    Shapes: x (..., T, C), mask (..., T) -> y (..., C).

    Without a mask, every position is visible. The pullback differentiates x.
    Derivation: at the top of npl_lora/ops/masked_mean.py.
    """
    xp, _ = check_inputs(x=(x, "... T C"), mask=(mask, "... T", "bool or None"))
    visible = xp.ones(x.shape[:-1], dtype=xp.bool) if mask is None else mask
    visible = xp.expand_dims(visible, axis=-1)
    count = xp.sum(xp.astype(visible, x.dtype), axis=-2, keepdims=True)
    count = xp.where(count == 0, xp.ones_like(count), count)
    zero = xp.zeros_like(x[..., :1, :1])
    y = xp.sum(xp.where(visible, x, zero), axis=-2) / count[..., 0, :]

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        if "x" not in wrt:
            return {}
        return {"x": xp.where(visible, xp.expand_dims(dy, axis=-2) / count, zero)}  # forward was: y = (1 / n) sum_t x_t

    return y, Pullback(backward, y, inputs=("x",))
