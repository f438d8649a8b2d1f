"""layer_norm: y = w o xhat + b, with xhat the centred and scaled x of each token.

    c = x - mean(x),   q = 1 / sqrt(mean(c^2) + eps),   xhat = c q,   y = w o xhat + b

Derivation, with g = w o dy the gradient of xhat and means over the n features of one token:

    1. xhat = c q:  dq = sum(g o c);  c gets g q directly, and through q. From q = (mean(c^2) + eps)^(-1/2),
       dq/dc_i = -q^3 c_i / n, so  dc = q g - (q^3 c / n) sum(g o c) = q (g - xhat mean(g o xhat))
    2. c = x - mean(x):  dx = dc - mean(dc) = q (g - mean(g) - xhat mean(g o xhat))      (mean(xhat) = 0)
    3. w and b act on every token alike:  dw = sum_n dy o xhat,  db = sum_n dy

Source: Ba et al., "Layer Normalization", 2016, section 3.
"""

from ._interface import Array, Pullback
from .checks import check_inputs, check_positive
from .namespace import rows


def layer_norm(x: Array, w: Array, b: Array, *, eps: float = 1e-5) -> tuple[Array, Pullback]:
    """y = w o (x - mean) / sqrt(var + eps) + b, mean and (biased) variance over the last axis.

    x (..., n), w (n,), b (n,), eps > 0 -> y (..., n). The pullback differentiates x, w and b.
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
            g = w * dy
            along = xp.mean(g * xhat, axis=-1, keepdims=True)
            grads["x"] = q * (g - xp.mean(g, axis=-1, keepdims=True) - xhat * along)
        if "w" in wrt:
            grads["w"] = xp.sum(rows(dy * xhat), axis=0)
        if "b" in wrt:
            grads["b"] = xp.sum(rows(dy), axis=0)
        return grads

    return y, Pullback(backward, y, inputs=("x", "w", "b"))
