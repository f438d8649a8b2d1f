"""lora_linear: y = x W^T + b + s (x~ A^T) B^T, the op the project is named for.

W (out, in) is frozen; A (r, in) and B (out, r) are trained; s is the scale, alpha / r (or alpha / sqrt(r) with rsLoRA).
x~ = x o mask is what dropout lets through to the low-rank path; the base path sees x itself.

    h = x~ A^T                  (..., r)
    y = x W^T + b + s h B^T     (..., out)

Derivation. L is a scalar and dy = dL/dy; <P, Q> = sum of P o Q. Change one input at a time and read its gradient off
dL = <dy, change of y>, using <P, Q R> = <P R^T, Q> = <Q^T P, R>.

    1. B:  change of y = s h (change of B)^T,    dL = <dy, s h dB'^T> = <s dy^T h, dB'>       dB = s dy^T h
    2. h:  change of y = s (change of h) B^T,    dL = <s dy B, dh'>                           dh = s dy B
    3. A:  change of h = x~ (change of A)^T,     dL = <dh, x~ dA'^T> = <dh^T x~, dA'>         dA = dh^T x~
    4. x:  through the base path, dy W; and through h, with change of h = (dx' o mask) A^T,
           dL = <dh A, dx' o mask> = <mask o (dh A), dx'>                       dx = dy W + mask o (dh A)

The same s multiplies the path once in each of y, dA, dB and in the second half of dx: a scale that is missing or
doubled in one of them is the commonest fault in hand-written LoRA. dA and dB sum over all leading axes, for every token
uses the same A and B. At B = 0, dh = 0 and so dA = 0, but dB is not: that is how training leaves the start.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, section 4.1, equation 3.
"""

from ._interface import Array, Pullback
from .checks import check_inputs, check_number
from .namespace import rows


def lora_linear(
    x: Array, W: Array, A: Array, B: Array, *, scale: float, b: Array | None = None, mask: Array | None = None
) -> tuple[Array, Pullback]:
    """y = x W^T + b + scale ((x o mask) A^T) B^T.

    x (..., in), W (out, in), A (r, in), B (out, r), b (out,) or None, mask (..., in) or None: a dropout mask that is
    already divided by 1 - p, a constant in the backward. -> y (..., out), in the inputs' dtype. The pullback
    differentiates x, A and B, and W and b when asked. Raises TypeError and ValueError for what does not fit.
    """
    optional = dict(b=(b, "out", "number or None"), mask=(mask, "... in", "number or None"))
    xp, _ = check_inputs(W=(W, "out in"), x=(x, "... in"), A=(A, "r in"), B=(B, "out r"), **optional)
    scale = check_number("scale", scale)
    xd = x if mask is None else x * mask
    h = xd @ A.T
    y = x @ W.T + scale * (h @ B.T)
    if b is not None:
        y = y + b

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        grads = {}
        if wrt & {"x", "A"}:
            dh = scale * (dy @ B)  # forward was: y = ... + scale (h B^T)
        if "x" in wrt:
            dxd = dh @ A  # forward was: h = xd A^T
            grads["x"] = dy @ W + (dxd if mask is None else dxd * mask)
        if "A" in wrt:
            grads["A"] = rows(dh).T @ rows(xd)
        if "B" in wrt:
            grads["B"] = scale * (rows(dy).T @ rows(h))
        if "W" in wrt:
            grads["W"] = rows(dy).T @ rows(x)
        if "b" in wrt:
            grads["b"] = xp.sum(rows(dy), axis=0)
        return grads

    frozen = ("W",) if b is None else ("W", "b")
    return y, Pullback(backward, y, inputs=("x", "A", "B", *frozen), frozen=frozen)
