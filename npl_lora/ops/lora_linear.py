"""lora_linear: a linear layer with LoRA, the op that the project is named for.

    xd = x o mask               (..., in)     what dropout lets through; o is the product element by element
    h = xd A^T                  (..., r)
    y = x W^T + b + s h B^T     (..., out)

W (out, in) is frozen. A (r, in) and B (out, r) are trained. s is the scale, alpha / r, or alpha / sqrt(r) with rsLoRA.
The base path sees x itself; only the low-rank path sees xd. Without a mask, xd = x.

Derivation. L is a scalar loss and dy = dL/dy. A small change δB of B changes y by δy, and L by δL = <dy, δy>, where
<P, Q> is the sum of all elements of P o Q. So change one input at a time, and move everything else to the left with
<P, Q R> = <P R^T, Q> = <Q^T P, R>. The other factor is then dB, the gradient of L with respect to B.

    1. B.  δy = s h δB^T.      δL = <dy, s h δB^T> = <s dy^T h, δB>              dB = s dy^T h
    2. h.  δy = s δh B^T.      δL = <dy, s δh B^T> = <s dy B, δh>                dh = s dy B
    3. A.  δh = xd δA^T.       δL = <dh, xd δA^T> = <dh^T xd, δA>                dA = dh^T xd
    4. xd. δh = δxd A^T.       δL = <dh, δxd A^T> = <dh A, δxd>                  dxd = dh A
    5. x.  δy = δx W^T on the base path, and δxd = δx o mask on the low-rank path.
           δL = <dy, δx W^T> + <dxd, δx o mask>                                  dx = dy W + dxd o mask
    6. W.  δy = x δW^T.        δL = <dy, x δW^T> = <dy^T x, δW>                  dW = dy^T x
    7. b.  δy = δb at each token.                                                db = the sum of dy over the tokens

LoRA needs neither dW nor db; full fine-tuning does. The scale s appears once in each of y, dA and dB, and once in the
second term of dx. A scale that is missing or doubled in one of these is the commonest fault of hand-written LoRA. dA
and dB are sums over all tokens, because every token uses the same A and B. At the start B = 0, so dh = 0 and dA = 0,
but dB is not 0: the first step changes B alone.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, section 4.1, equation 3.
"""

from __future__ import annotations

from ._interface import Array, Pullback
from .checks import check_inputs, check_number
from .namespace import rows


def lora_linear(
    x: Array,  # (..., in)
    W: Array,  # (out, in), frozen
    A: Array,  # (r, in)
    B: Array,  # (out, r)
    *,
    scale: float,  # s: alpha / r, or alpha / sqrt(r) with rsLoRA
    b: Array | None = None,  # (out,), frozen
    mask: Array | None = None,  # (..., in), dropout's: 0 or 1 / (1 - p)
) -> tuple[Array, Pullback]:  # y (..., out)
    """y = x W^T + b + scale ((x o mask) A^T) B^T.

    Shapes: x (..., in), W (out, in) frozen, A (r, in), B (out, r), b (out,) frozen, mask (..., in) -> y (..., out).

    b and mask may be None. mask is a dropout mask, already divided by 1 - p. It gets no gradient.
    The pullback differentiates x, A and B, and W and b when `wrt` names them. Mixed dtypes are promoted, as NumPy does.
    Raises TypeError for what is no array or number of the right kind, ValueError for a shape that does not fit.

    >>> x, W, A, B = np.ones((5, 8)), np.ones((6, 8)), np.ones((3, 8)), np.zeros((6, 3))
    >>> y, pullback = lora_linear(x, W, A, B, scale=0.5)
    >>> {name: gradient.shape for name, gradient in pullback(np.ones_like(y)).items()}
    {'x': (5, 8), 'A': (3, 8), 'B': (6, 3)}

    Derivation: at the top of npl_lora/ops/lora_linear.py.
    """
    optional = dict(b=(b, "out", "number or None"), mask=(mask, "... in", "number or None"))
    xp, _ = check_inputs(W=(W, "out in"), x=(x, "... in"), A=(A, "r in"), B=(B, "out r"), **optional)
    scale = check_number("scale", scale)
    xd = x if mask is None else x * mask
    h = xd @ A.T  # (..., r)
    y = x @ W.T + scale * (h @ B.T)  # (..., out)
    if b is not None:
        y = y + b

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        grads = {}
        if wrt & {"x", "A"}:
            dh = scale * (dy @ B)  # forward was: s h B^T
        if "x" in wrt:
            dxd = dh @ A  # forward was: h = xd A^T
            # forward was: y = x W^T
            # forward was: xd = x o mask
            grads["x"] = dy @ W + (dxd if mask is None else dxd * mask)
        if "A" in wrt:
            grads["A"] = rows(dh).T @ rows(xd)  # forward was: h = xd A^T
        if "B" in wrt:
            grads["B"] = scale * (rows(dy).T @ rows(h))  # forward was: s h B^T
        if "W" in wrt:
            grads["W"] = rows(dy).T @ rows(x)  # forward was: y = x W^T
        if "b" in wrt:
            grads["b"] = xp.sum(rows(dy), axis=0)  # forward was: + b
        return grads

    frozen = ("W",) if b is None else ("W", "b")
    return y, Pullback(backward, y, inputs=("x", "A", "B", *frozen), frozen=frozen)
