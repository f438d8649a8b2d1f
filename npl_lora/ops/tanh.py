"""tanh: y = tanh(z), element by element.

Derivation. tanh z = 2 sigma(2z) - 1 with sigma the logistic function, and sigma' = sigma(z) sigma(-z). So

    dy/dz = 4 sigma(2z) sigma(-2z)

This equals 1 - y^2, which has no digits left where y is close to 1. The product keeps all of them.
"""

from __future__ import annotations

from ._interface import Array, Pullback
from .checks import check_inputs
from .namespace import sigmoid


def tanh(
    z: Array,  # (...)
) -> tuple[Array, Pullback]:  # y (...)
    """y = tanh(z).

    Shapes: z (...) -> y (...). The pullback differentiates z.
    Derivation: at the top of npl_lora/ops/tanh.py.
    """
    xp, _ = check_inputs(z=(z, "..."))
    y = xp.tanh(z)

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        # forward was: y = tanh(z)
        return {"z": dy * (4.0 * sigmoid(2.0 * z) * sigmoid(-2.0 * z))} if "z" in wrt else {}

    return y, Pullback(backward, y, inputs=("z",))
