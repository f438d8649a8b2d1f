"""gelu: y = z Phi(z), with Phi the standard normal distribution function; and gelu_tanh, its approximation.

Derivation. Phi' = phi, the normal density, so y' = Phi(z) + z phi(z). The approximation replaces Phi(z) by
(1 + tanh u) / 2 = sigma(2u), u = sqrt(2/pi) (z + 0.044715 z^3), with sigma the logistic function:

    y = z sigma(2u),     y' = sigma(2u) + z sigma(2u) sigma(-2u) 2u',     u' = sqrt(2/pi) (1 + 3 * 0.044715 z^2)

Phi comes from erfc, and 1 + tanh is written as sigma: 1 + erf and 1 + tanh are 0 in floating point where z is very
negative, while y there is small but not 0.

Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016, section 2.
"""

from ._interface import Array, Pullback
from .checks import check_inputs
from .namespace import normal_cdf, normal_pdf, quotient, sigmoid


def gelu(z: Array) -> tuple[Array, Pullback]:
    """y = z Phi(z). z (...) -> y (...). The pullback differentiates z."""
    check_inputs(z=(z, "..."))
    Phi = normal_cdf(z)
    y = z * Phi

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        return {"z": dy * (Phi + z * normal_pdf(z))} if "z" in wrt else {}

    return y, Pullback(backward, y, inputs=("z",))


def gelu_tanh(z: Array) -> tuple[Array, Pullback]:
    """y = z (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3))) / 2. z (...) -> y (...). The pullback differentiates z."""
    xp, _ = check_inputs(z=(z, "..."))
    slope, cubic = 2.0 * (2.0 / xp.pi) ** 0.5, quotient(xp, 44715, 10**6)
    two_u = slope * (z + cubic * (z * z * z))
    sigma = sigmoid(two_u)
    y = z * sigma

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        if "z" not in wrt:
            return {}
        d_two_u = slope * (1.0 + 3.0 * cubic * (z * z))
        return {"z": dy * (sigma + y * sigmoid(-two_u) * d_two_u)}

    return y, Pullback(backward, y, inputs=("z",))
