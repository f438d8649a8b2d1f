"""rms_norm: each token is divided by the root of its mean square, and given a trained weight.

    xhat = x q,   q = 1 / sqrt(mean(x^2) + eps)
    y    = w o xhat

Derivation. Means and sums are over the n features of one token. Let g = w o dy, the gradient of xhat.

    1. xhat = x q.  x enters directly, with gradient g q, and through q. The gradient of q is sum(g o x), and
                    q = (mean(x^2) + eps)^(-1/2) gives dq/dx_i = -q^3 x_i / n. So
                    dx = q g - (q^3 x / n) sum(g o x) = q (g - xhat mean(g o xhat))
    2. w acts on every token alike.      dw = sum_n dy o xhat

Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, equation 4.
"""

from __future__ import annotations

from ._interface import Array, Pullback
from .checks import check_inputs, check_positive
from .namespace import rows


def rms_norm(
    x: Array,  # (..., n)
    w: Array,  # (n,)
    *,
    eps: float = 1e-6,  # > 0, added to the mean square
) -> tuple[Array, Pullback]:  # y (..., n)
    """y = w o x / sqrt(mean(x^2) + eps), with the mean over the last axis.

    Shapes: x (..., n), w (n,) -> y (..., n).

    The pullback differentiates x and w. Raises TypeError and ValueError for arguments that do not fit together.
    Derivation: at the top of npl_lora/ops/rms_norm.py.
    """
    xp, _ = check_inputs(x=(x, "... n"), w=(w, "n"))
    eps = check_positive("eps", eps)
    q = 1.0 / xp.sqrt(xp.mean(x * x, axis=-1, keepdims=True) + eps)
    xhat = x * q
    y = w * xhat

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        grads = {}
        if "x" in wrt:
            g = w * dy  # forward was: y = w o xhat
            grads["x"] = q * (g - xhat * xp.mean(g * xhat, axis=-1, keepdims=True))  # forward was: xhat = x q
        if "w" in wrt:
            grads["w"] = xp.sum(rows(dy * xhat), axis=0)  # forward was: y = w o xhat
        return grads

    return y, Pullback(backward, y, inputs=("x", "w"))
