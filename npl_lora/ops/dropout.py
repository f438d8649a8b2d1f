"""dropout: y = x o mask, with the mask given.

The mask holds 0 where an entry is dropped and 1 / (1 - p) where it is kept ("inverted": the mean of y over masks is x,
so evaluation is the identity). An op draws nothing: the same mask must serve the forward and the backward, so it is an
argument and a constant. Derivation: y_i = x_i mask_i, each entry for itself, so dx = dy o mask.

Source: Srivastava et al., "Dropout", JMLR 2014, section 10 (inverted scaling).
"""

from ._interface import Array, Pullback
from .checks import check_inputs


def dropout(x: Array, mask: Array) -> tuple[Array, Pullback]:
    """y = x o mask.

    x (...), mask (...) of the same shape, already divided by 1 - p -> y (...). The pullback differentiates x.
    """
    check_inputs(x=(x, "..."), mask=(mask, "..."))
    y = x * mask

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        return {"x": dy * mask} if "x" in wrt else {}

    return y, Pullback(backward, y, inputs=("x",))
