"""relu: y = max(z, 0).

Derivation. The slope is 1 where z > 0 and 0 where z < 0; at 0 it has none, and 0 is the convention (as in torch).
A complex z is judged by its real part, so that the complex step sees the slope of the side it stands on.

Source: Nair and Hinton, "Rectified Linear Units", ICML 2010.
"""

from ._interface import Array, Pullback
from .checks import check_inputs
from .namespace import real


def relu(z: Array) -> tuple[Array, Pullback]:
    """y = z where z > 0, else 0. z (...) -> y (...). The pullback differentiates z."""
    xp, _ = check_inputs(z=(z, "..."))
    positive = real(z) > 0
    y = xp.where(positive, z, xp.zeros_like(z))

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        return {"z": xp.where(positive, dy, xp.zeros_like(dy))} if "z" in wrt else {}

    return y, Pullback(backward, y, inputs=("z",))
