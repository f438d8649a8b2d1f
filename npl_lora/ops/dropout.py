"""dropout: y = x o mask, with the mask given.

The mask holds 0 where an entry is dropped and 1 / (1 - p) where it is kept. This is "inverted" dropout: the mean of y
over random masks is x, so evaluation is the identity.

An op draws no random numbers. The forward and the backward must use the same mask, so the mask is an argument, and a
constant in the derivative.

Derivation. y_i = x_i mask_i, each entry on its own. So dx = dy o mask.

Source: Srivastava et al., "Dropout", JMLR 2014, section 10 (inverted scaling).
"""

from __future__ import annotations

from ._interface import Array, Pullback
from .checks import check_inputs


def dropout(
    x: Array,  # (...)
    mask: Array,  # (...), 0 or 1 / (1 - p)
) -> tuple[Array, Pullback]:  # y (...)
    """y = x o mask.

    Shapes: x (...), mask (...) -> y (...), all of one shape.

    mask is already divided by 1 - p. The pullback differentiates x.
    Derivation: at the top of npl_lora/ops/dropout.py.
    """
    check_inputs(x=(x, "..."), mask=(mask, "..."))
    y = x * mask

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        return {"x": dy * mask} if "x" in wrt else {}  # forward was: y = x o mask

    return y, Pullback(backward, y, inputs=("x",))
