"""rms_norm: y = w o xhat, with xhat = x q and q = 1 / sqrt(mean(x^2) + eps).

Derivation, with g = w o dy the gradient of xhat and means over the n features of one token. x enters xhat directly,
with gradient g q, and through q: dq = sum(g o x) and dq/dx_i = -q^3 x_i / n. So

    dx = q g - (q^3 x / n) sum(g o x) = q (g - xhat mean(g o xhat)),      dw = sum_n dy o xhat

Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, equation 4.
"""

from ._interface import Array, Pullback
from .checks import check_inputs, check_positive
from .namespace import rows


def rms_norm(x: Array, w: Array, *, eps: float = 1e-6) -> tuple[Array, Pullback]:
    """y = w o x / sqrt(mean(x^2) + eps), the mean over the last axis.

    x (..., n), w (n,), eps > 0 -> y (..., n). The pullback differentiates x and w.
    """
    xp, _ = check_inputs(x=(x, "... n"), w=(w, "n"))
    eps = check_positive("eps", eps)
    q = 1.0 / xp.sqrt(xp.mean(x * x, axis=-1, keepdims=True) + eps)
    xhat = x * q
    y = w * xhat

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        grads = {}
        if "x" in wrt:
            g = w * dy
            grads["x"] = q * (g - xhat * xp.mean(g * xhat, axis=-1, keepdims=True))
        if "w" in wrt:
            grads["w"] = xp.sum(rows(dy * xhat), axis=0)
        return grads

    return y, Pullback(backward, y, inputs=("x", "w"))
