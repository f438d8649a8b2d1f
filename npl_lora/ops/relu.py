"""relu: y = max(z, 0), element by element.

Derivation. The slope is 1 where z > 0 and 0 where z < 0. At 0 there is no slope, and 0 is the convention, as in torch.
A complex z is judged by its real part, so that the complex step sees the slope of the side on which z lies.

Source: Nair and Hinton, "Rectified Linear Units", ICML 2010.
"""

from __future__ import annotations

from ._interface import Array, Pullback
from .checks import check_inputs
from .namespace import real


def relu(
    z: Array,  # (...)
) -> tuple[Array, Pullback]:  # y (...)
    """y = z where z > 0, else 0.

    Shapes: z (...) -> y (...). The pullback differentiates z.
    Derivation: at the top of npl_lora/ops/relu.py.
    """
    xp, _ = check_inputs(z=(z, "..."))
    positive = real(z) > 0
    y = xp.where(positive, z, xp.zeros_like(z))

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        return {"z": xp.where(positive, dy, xp.zeros_like(dy))} if "z" in wrt else {}  # forward was: y = max(z, 0)

    return y, Pullback(backward, y, inputs=("z",))
