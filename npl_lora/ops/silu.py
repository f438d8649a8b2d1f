"""silu: y = z sigma(z), with sigma the logistic function (also called swish).

Derivation. sigma' = sigma(z) sigma(-z), so dy/dz = sigma(z) + z sigma(z) sigma(-z), each element on its own. sigma(-z)
is computed as it stands, because 1 - sigma(z) has no digits left where z is large.

Source: Elfwing et al., "Sigmoid-Weighted Linear Units", 2017, equations 6 and 8.
"""

from __future__ import annotations

from ._interface import Array, Pullback
from .checks import check_inputs
from .namespace import sigmoid


def silu(
    z: Array,  # (...)
) -> tuple[Array, Pullback]:  # y (...)
    """y = z / (1 + exp(-z)).

    Shapes: z (...) -> y (...). The pullback differentiates z.
    Derivation: at the top of npl_lora/ops/silu.py.
    """
    check_inputs(z=(z, "..."))
    sigma = sigmoid(z)
    y = z * sigma

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        return {"z": dy * (sigma + y * sigmoid(-z))} if "z" in wrt else {}  # forward was: y = z sigma(z)

    return y, Pullback(backward, y, inputs=("z",))
