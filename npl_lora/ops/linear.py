"""linear: y = x W^T + b.

Derivation. L is a scalar loss and dy = dL/dy. Written out, y_no = sum_i x_ni W_oi + b_o. By the chain rule, the
gradient of an input is the sum over every y_no that it enters, each with its factor:

    dx_ni = sum_o dy_no W_oi       x_ni enters every y_no, with factor W_oi           dx = dy W
    dW_oi = sum_n dy_no x_ni       W_oi enters every token's y_no, with factor x_ni   dW = dy^T x
    db_o  = sum_n dy_no            b_o enters every token's y_no, with factor 1       db = 1^T dy

The shapes leave no other choice: (N, out)(out, in) is the only product of dy and W that has the shape of x.
"""

from __future__ import annotations

from ._interface import Array, Pullback
from .checks import check_inputs
from .namespace import rows


def linear(
    x: Array,  # (..., in)
    W: Array,  # (out, in)
    b: Array | None = None,  # (out,)
    *,
    frozen: bool = False,  # True: W and b are constants
) -> tuple[Array, Pullback]:  # y (..., out)
    """y = x W^T + b.

    Shapes: x (..., in), W (out, in), b (out,) -> y (..., out), in the inputs' dtype.

    The pullback differentiates x, W and b. With frozen, W and b are constants: the pullback differentiates x alone, and
    does not keep x, which only dW needs. Raises TypeError and ValueError for arrays that do not fit together.
    Derivation: at the top of npl_lora/ops/linear.py.
    """
    xp, _ = check_inputs(W=(W, "out in"), x=(x, "... in"), b=(b, "out", "number or None"))
    y = x @ W.T
    if b is not None:
        y = y + b
    kept = None if frozen else x

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        grads = {}
        if "x" in wrt:
            grads["x"] = dy @ W  # forward was: y = x W^T + b
        if "W" in wrt:
            grads["W"] = rows(dy).T @ rows(kept)  # forward was: y = x W^T + b
        if "b" in wrt:
            grads["b"] = xp.sum(rows(dy), axis=0)  # forward was: y = x W^T + b
        return grads

    trained = () if frozen else ("W",) if b is None else ("W", "b")
    return y, Pullback(backward, y, inputs=("x", *trained))
