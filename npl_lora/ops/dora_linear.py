"""dora_linear: y = (m / n) o (x V^T) + b with V = W + s B A: LoRA for the direction, m for the length of each row.

m (out,) is trained beside A and B; n (out,) holds the lengths of V's rows, n_o = sqrt(sum_i V_oi^2). With m = n at the
start, y is the base layer's.

    h = x A^T                     (..., r)
    z = x W^T + s h B^T           (..., out)      which is x V^T
    y = c o z + b,   c = m / n    (..., out)      b is not scaled

In the backward n is a constant: that saves memory and costs little (section 4.3 of the paper), and libraries do so. The
pullback is therefore not the derivative of the whole forward, but of the forward at a given n. `n` can be given for
that: whoever differentiates holds it fixed.

Derivation. With n constant, y is lora_linear's output times c:

    1. z:  dL = <dy, c o dz'> = <c o dy, dz'>                   dz = c o dy
    2. m:  change of y = (dm' / n) o z, in every token          dm = sum over tokens of dy o z / n
    3. A, B and x as in lora_linear, with dz in the place of dy.

Source: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", 2024, equations 5 and 11. The norm is taken over the
inputs of each output, as PEFT, torchtune and mlx-lm take it.
"""

from ._interface import Array, Pullback
from .checks import check_inputs, check_number
from .namespace import rows


def dora_linear(
    x: Array,
    W: Array,
    A: Array,
    B: Array,
    m: Array,
    *,
    scale: float,
    b: Array | None = None,
    n: Array | None = None,
) -> tuple[Array, Pullback]:
    """y = (m / n) o (x W^T + scale (x A^T) B^T) + b.

    x (..., in), W (out, in), A (r, in), B (out, r), m (out,), b (out,) or None -> y (..., out), in the inputs' dtype.
    n (out,): the row norms of W + scale B A, computed unless given, and a constant in the backward. A row of zeros has
    no direction, and gives what 0 / 0 gives. The pullback differentiates x, A, B and m, and W and b when asked. Raises
    TypeError and ValueError for what does not fit.
    """
    optional = dict(b=(b, "out", "number or None"), n=(n, "out", "number or None"))
    xp, _ = check_inputs(W=(W, "out in"), x=(x, "... in"), A=(A, "r in"), B=(B, "out r"), m=(m, "out"), **optional)
    scale = check_number("scale", scale)
    if n is None:
        V = W + scale * (B @ A)
        n = xp.sqrt(xp.sum(V * V, axis=1))
    c = m / n
    h = x @ A.T
    z = x @ W.T + scale * (h @ B.T)
    y = c * z if b is None else c * z + b

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        grads = {}
        dz = c * dy  # forward was: y = c o z + b
        if wrt & {"x", "A"}:
            dh = scale * (dz @ B)  # forward was: z = x W^T + scale (h B^T)
        if "x" in wrt:
            grads["x"] = dz @ W + dh @ A
        if "A" in wrt:
            grads["A"] = rows(dh).T @ rows(x)  # forward was: h = x A^T
        if "B" in wrt:
            grads["B"] = scale * (rows(dz).T @ rows(h))
        if "m" in wrt:
            grads["m"] = xp.sum(rows(dy * z), axis=0) / n  # forward was: y = (m / n) o z + b
        if "W" in wrt:
            grads["W"] = rows(dz).T @ rows(x)
        if "b" in wrt:
            grads["b"] = xp.sum(rows(dy), axis=0)
        return grads

    frozen = ("W",) if b is None else ("W", "b")
    return y, Pullback(backward, y, inputs=("x", "A", "B", "m", *frozen), frozen=frozen)
