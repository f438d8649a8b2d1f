"""silu: y = z sigma(z), with sigma the logistic function (also called swish).

Derivation. sigma' = sigma(z) sigma(-z), so y' = sigma(z) + z sigma(z) sigma(-z), each entry for itself. sigma(-z) is
computed as such, for 1 - sigma(z) has no digits left where z is large.

Source: Elfwing et al., "Sigmoid-Weighted Linear Units", 2017, equations 6 and 8.
"""

from ._interface import Array, Pullback
from .checks import check_inputs
from .namespace import sigmoid


def silu(z: Array) -> tuple[Array, Pullback]:
    """y = z / (1 + exp(-z)). z (...) -> y (...). The pullback differentiates z."""
    check_inputs(z=(z, "..."))
    sigma = sigmoid(z)
    y = z * sigma

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        return {"z": dy * (sigma + y * sigmoid(-z))} if "z" in wrt else {}

    return y, Pullback(backward, y, inputs=("z",))
