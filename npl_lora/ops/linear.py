"""linear: y = x W^T + b.

Derivation. L is a scalar and dy = dL/dy. Written out, y_no = sum_i x_ni W_oi + b_o, so

    dL/dx_ni = sum_o dy_no W_oi      each x_ni enters every y_no, with weight W_oi       dx = dy W
    dL/dW_oi = sum_n dy_no x_ni      each W_oi enters every token's y_no                 dW = dy^T x
    dL/db_o  = sum_n dy_no           b_o enters every token with weight 1                db = 1^T dy

The shapes leave no other choice: (N, out)(out, in) is the only product of dy and W that has x's shape.
"""

from ._interface import Array, Pullback
from .checks import check_inputs
from .namespace import rows


def linear(x: Array, W: Array, b: Array | None = None, *, frozen: bool = False) -> tuple[Array, Pullback]:
    """y = x W^T + b.

    x (..., in), W (out, in), b (out,) or None -> y (..., out), in the inputs' dtype.
    The pullback differentiates x, W and b. frozen: W and b are constants; it differentiates x alone, and keeps no x,
    which only dW needs. Raises TypeError and ValueError for arrays that do not fit.
    """
    xp, _ = check_inputs(W=(W, "out in"), x=(x, "... in"), b=(b, "out", "number or None"))
    y = x @ W.T
    if b is not None:
        y = y + b
    kept = None if frozen else x

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        grads = {}
        if "x" in wrt:
            grads["x"] = dy @ W
        if "W" in wrt:
            grads["W"] = rows(dy).T @ rows(kept)
        if "b" in wrt:
            grads["b"] = xp.sum(rows(dy), axis=0)
        return grads

    trained = () if frozen else ("W",) if b is None else ("W", "b")
    return y, Pullback(backward, y, inputs=("x", *trained))
