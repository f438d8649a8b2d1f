"""dora_linear: LoRA for the direction of each row of the weight, and a trained vector m for its length.

    V = W + s B A                 (out, in)       the adapted weight
    n_o = sqrt(sum_i V_oi^2)      (out,)          the lengths of its rows
    z = x W^T + s h B^T           (..., out)      which is x V^T; h = x A^T
    y = c o z + b,  c = m / n     (..., out)      b is not scaled

m (out,) is trained together with A and B. Training starts from m = n, where y is the base layer's.

In the backward n is a constant. This saves memory and costs little accuracy (section 4.3 of the paper), and libraries
do the same. So the pullback is not the derivative of the whole forward, but of the forward at a given n. Pass `n` to
hold it fixed, for example when you compare the pullback with finite differences.

Derivation. With n constant, this is lora_linear followed by a product:

    1. z.  δL = <dy, c o δz> = <c o dy, δz>                     dz = c o dy
    2. m.  δy = (δm / n) o z at every token                     dm = (sum over tokens of dy o z) / n
    3. b.  δy = δb at every token                               db = sum over tokens of dy
    4. x, A, B and W get from dz what lora_linear gives them.

Source: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", 2024, equations 5 and 11. The norm is taken over the
inputs of each output, as in PEFT, torchtune and mlx-lm.
"""

from __future__ import annotations

from ._interface import Array, Pullback
from .checks import check_inputs, check_number
from .compose import Gradients
from .lora_linear import lora_linear
from .namespace import rows


def dora_linear(
    x: Array,  # (..., in)
    W: Array,  # (out, in), frozen
    A: Array,  # (r, in)
    B: Array,  # (out, r)
    m: Array,  # (out,)
    *,
    scale: float,  # s, as in lora_linear
    b: Array | None = None,  # (out,), frozen
    n: Array | None = None,  # (out,), held constant; computed unless given
) -> tuple[Array, Pullback]:  # y (..., out)
    """y = (m / n) o (x W^T + scale (x A^T) B^T) + b.

    Shapes: x (..., in), W (out, in) frozen, A (r, in), B (out, r), m (out,), b (out,) frozen, n (out,) -> y (..., out).

    n: the norms of the rows of W + scale B A, computed unless given; a constant in the backward. A row of zeros has no
    direction, and gives whatever 0 / 0 gives.
    The pullback differentiates x, A, B and m, and W and b when `wrt` names them. y has the inputs' dtype.
    Raises TypeError and ValueError for arguments that do not fit together.
    Derivation: at the top of npl_lora/ops/dora_linear.py.
    """
    optional = dict(b=(b, "out", "number or None"), n=(n, "out", "number or None"))
    xp, _ = check_inputs(W=(W, "out in"), x=(x, "... in"), A=(A, "r in"), B=(B, "out r"), m=(m, "out"), **optional)
    scale = check_number("scale", scale)
    if n is None:
        V = W + scale * (B @ A)
        n = xp.sqrt(xp.sum(V * V, axis=1))
    c = m / n
    z, linear = lora_linear(x, W, A, B, scale=scale)
    y = c * z if b is None else c * z + b

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        grads = Gradients(wrt)
        # forward was: z = x W^T + s h B^T
        grads.through(linear, c * dy)  # forward was: y = c o z + b,  c = m / n
        if "m" in wrt:
            grads["m"] = xp.sum(rows(dy * z), axis=0) / n  # forward was: y = c o z + b,  c = m / n
        if "b" in wrt:
            grads["b"] = xp.sum(rows(dy), axis=0)  # forward was: y = c o z + b
        return grads

    frozen = ("W",) if b is None else ("W", "b")
    return y, Pullback(backward, y, inputs=("x", "A", "B", "m", *frozen), frozen=frozen)
