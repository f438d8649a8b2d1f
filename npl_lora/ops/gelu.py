"""gelu: y = z Phi(z), with Phi the standard normal distribution function; and gelu_tanh, its approximation.

The approximation replaces Phi(z) by (1 + tanh u) / 2 with u = sqrt(2/pi) (z + 0.044715 z^3). With sigma the logistic
function, (1 + tanh u) / 2 is sigma(2u), so it is

    y = z sigma(2u)

Derivation. The derivative of Phi is phi, the normal density, and sigma' = sigma(u) sigma(-u). By the product rule

    gelu:        dy/dz = Phi(z) + z phi(z)
    gelu_tanh:   dy/dz = sigma(2u) + z sigma(2u) sigma(-2u) (2u)',    u' = sqrt(2/pi) (1 + 3 * 0.044715 z^2)

Where z is very negative, y is small but not 0, while 1 + erf and 1 + tanh are exactly 0 in floating point. That is why
Phi is computed from erfc, and 1 + tanh from sigma.

Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016, section 2.
"""

from __future__ import annotations

from ._interface import Array, Pullback
from .checks import check_inputs
from .namespace import normal_cdf, normal_pdf, quotient, sigmoid


def gelu(
    z: Array,  # (...)
) -> tuple[Array, Pullback]:  # y (...)
    """y = z Phi(z).

    Shapes: z (...) -> y (...). The pullback differentiates z.
    Derivation: at the top of npl_lora/ops/gelu.py.
    """
    check_inputs(z=(z, "..."))
    Phi = normal_cdf(z)
    y = z * Phi

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        return {"z": dy * (Phi + z * normal_pdf(z))} if "z" in wrt else {}  # forward was: y = z Phi(z)

    return y, Pullback(backward, y, inputs=("z",))


def gelu_tanh(
    z: Array,  # (...)
) -> tuple[Array, Pullback]:  # y (...)
    """y = z (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3))) / 2.

    Shapes: z (...) -> y (...). The pullback differentiates z.
    Derivation: at the top of npl_lora/ops/gelu.py.
    """
    xp, _ = check_inputs(z=(z, "..."))
    slope, cubic = 2.0 * (2.0 / xp.pi) ** 0.5, quotient(xp, 44715, 10**6)
    two_u = slope * (z + cubic * (z * z * z))
    sigma = sigmoid(two_u)
    y = z * sigma

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        if "z" not in wrt:
            return {}
        d_two_u = slope * (1.0 + 3.0 * cubic * (z * z))  # forward was: u = sqrt(2/pi) (z + 0.044715 z^3)
        return {"z": dy * (sigma + y * sigmoid(-two_u) * d_two_u)}  # forward was: y = z sigma(2u)

    return y, Pullback(backward, y, inputs=("z",))
