"""layer_norm: each token is centred, divided by its standard deviation, and given a trained weight and bias.

    c    = x - mean(x)
    xhat = c q,   q = 1 / sqrt(mean(c^2) + eps)
    y    = w o xhat + b

Derivation. Means and sums are over the n features of one token. Let g = w o dy, the gradient of xhat.

    1. xhat = c q.      c enters directly, with gradient g q, and through q. The gradient of q is sum(g o c), and
                        q = (mean(c^2) + eps)^(-1/2) gives dq/dc_i = -q^3 c_i / n. So
                        dc = q g - (q^3 c / n) sum(g o c) = q (g - xhat mean(g o xhat))
    2. c = x - mean(x). dx = dc - mean(dc) = q (g - mean(g) - xhat mean(g o xhat)), because mean(xhat) = 0
    3. w and b act on every token alike.      dw = sum_n dy o xhat,   db = sum_n dy

Source: Ba et al., "Layer Normalization", 2016, section 3.
"""

from __future__ import annotations

from ._interface import Array, Pullback
from .checks import check_inputs, check_positive
from .namespace import rows


def layer_norm(
    x: Array,  # (..., n)
    w: Array,  # (n,)
    b: Array,  # (n,)
    *,
    eps: float = 1e-5,  # > 0, added to the variance
) -> tuple[Array, Pullback]:  # y (..., n)
    """y = w o (x - mean) / sqrt(var + eps) + b, with the mean and the (biased) variance over the last axis.

    Shapes: x (..., n), w (n,), b (n,) -> y (..., n).

    The pullback differentiates x, w and b. Raises TypeError and ValueError for arguments that do not fit together.
    Derivation: at the top of npl_lora/ops/layer_norm.py.
    """
    xp, _ = check_inputs(x=(x, "... n"), w=(w, "n"), b=(b, "n"))
    eps = check_positive("eps", eps)
    c = x - xp.mean(x, axis=-1, keepdims=True)
    q = 1.0 / xp.sqrt(xp.mean(c * c, axis=-1, keepdims=True) + eps)
    xhat = c * q
    y = w * xhat + b

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        grads = {}
        if "x" in wrt:
            g = w * dy  # forward was: y = w o xhat + b
            along = xp.mean(g * xhat, axis=-1, keepdims=True)
            # forward was: xhat = c q
            # forward was: c = x - mean(x)
            grads["x"] = q * (g - xp.mean(g, axis=-1, keepdims=True) - xhat * along)
        if "w" in wrt:
            grads["w"] = xp.sum(rows(dy * xhat), axis=0)  # forward was: y = w o xhat + b
        if "b" in wrt:
            grads["b"] = xp.sum(rows(dy), axis=0)  # forward was: y = w o xhat + b
        return grads

    return y, Pullback(backward, y, inputs=("x", "w", "b"))
