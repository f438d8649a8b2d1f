"""masked_mean: the mean of a sequence's features over the positions that are seen, the padding left out.

    y = (1 / n) sum over seen t of x_t,     n of them

Derivation. y is linear in x, with weight 1 / n on each seen position and 0 on the others, so dx_t = dy / n where t is
seen and 0 elsewhere. A sequence of which nothing is seen has no mean: it gives zeros, and passes back zeros.

Source: Reimers and Gurevych, "Sentence-BERT", 2019, section 3, the MEAN strategy.
"""

from ._interface import Array, Pullback
from .checks import check_inputs


def masked_mean(x: Array, mask: Array | None = None) -> tuple[Array, Pullback]:
    """y = the mean of x over the positions where mask is True.

    x (..., T, C), mask (..., T) bool, or None where all are seen -> y (..., C). The pullback differentiates x.
    """
    xp, _ = check_inputs(x=(x, "... T C"), mask=(mask, "... T", "bool or None"))
    seen = xp.ones(x.shape[:-1], dtype=xp.bool) if mask is None else mask
    seen = xp.expand_dims(seen, axis=-1)
    count = xp.sum(xp.astype(seen, x.dtype), axis=-2, keepdims=True)
    count = xp.where(count == 0, xp.ones_like(count), count)
    zero = xp.zeros_like(x[..., :1, :1])
    y = xp.sum(xp.where(seen, x, zero), axis=-2) / count[..., 0, :]

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        if "x" not in wrt:
            return {}
        return {"x": xp.where(seen, xp.expand_dims(dy, axis=-2) / count, zero)}

    return y, Pullback(backward, y, inputs=("x",))
