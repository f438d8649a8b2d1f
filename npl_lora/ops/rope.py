"""rope: rotary position embedding. Pairs of coordinates are rotated by an angle that grows with the position.

    phi = p theta^(-2i / D)          for position p and pair i < D/2
    y_a = x_a cos phi - x_b sin phi
    y_b = x_b cos phi + x_a sin phi

There are two layouts. In the half-rotation layout (Llama in Hugging Face's files, GPT-NeoX) pair i is
(a, b) = (i, i + D/2). In the interleaved one (the paper, Meta's files, GPT-J) it is (2i, 2i + 1). They differ by a
permutation of the rows of W_q and W_k.

Derivation. For each pair, y = R x with R a rotation, which is constant in x. So dx = R^T dy, the rotation by -phi: the
same formula with sin negated.

Source: Su et al., "RoFormer", 2021, equations 14, 15 and 34.
"""

from __future__ import annotations

from ._interface import Array, Pullback
from .checks import check_bool, check_inputs, check_integer, check_positive
from .namespace import quotient, rotary_dtype, table_for


def rope(
    x: Array,  # (..., T, D), D even
    *,
    theta: float = 10000.0,  # the base of the frequencies
    start: int = 0,  # the position of the first row
    interleaved: bool = False,  # True: pair i is (2i, 2i + 1)
    frequencies: tuple[float, ...] | None = None,  # D/2 angles per position, in place of theta's
) -> tuple[Array, Pullback]:  # y (..., T, D)
    """y = x with each pair of coordinates rotated by the angle of its position.

    Shapes: x (..., T, D) -> y (..., T, D), with D even.

    Positions count from start. theta: the base of the frequencies.
    frequencies: the D/2 angles per position, in place of theta^(-2i / D), for models that stretch them.
    The angles are computed in float64 (longdouble for longdouble); their cos and sin are rounded to x's dtype.
    The pullback differentiates x. Raises ValueError for an odd D.
    Derivation: at the top of npl_lora/ops/rope.py.
    """
    xp, n = check_inputs(x=(x, "... T D"))
    theta = check_positive("theta", theta)
    check_integer("start", start)
    check_bool("interleaved", interleaved)
    if n["D"] % 2:
        raise ValueError(f"x has head size D = {n['D']}, expected an even number")
    if frequencies is None:
        frequency = float(theta) ** (xp.arange(n["D"] // 2, dtype=rotary_dtype(x)) * quotient(xp, -2, n["D"]))
    elif len(frequencies) != n["D"] // 2:
        raise ValueError(f"frequencies has {len(frequencies)} entries, expected D/2 = {n['D'] // 2}")
    else:
        frequency = xp.asarray(frequencies, dtype=rotary_dtype(x))
    cos, sin = _tables(xp, x, n["T"], frequency, start)
    y = _rotate(xp, x, cos, sin, interleaved)

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        return {"x": _rotate(xp, dy, cos, -sin, interleaved)} if "x" in wrt else {}  # forward was: y = R x

    return y, Pullback(backward, y, inputs=("x",))


def _tables(xp: Array, x: Array, T: int, frequency: Array, start: int) -> tuple[Array, Array]:
    """cos phi and sin phi, (T, D/2) each."""
    dtype = rotary_dtype(x)
    position = xp.arange(T, dtype=dtype) + start
    phi = xp.expand_dims(position, axis=1) * xp.expand_dims(frequency, axis=0)
    return table_for(xp.cos(phi), x), table_for(xp.sin(phi), x)


def _rotate(xp: Array, u: Array, cos: Array, sin: Array, interleaved: bool) -> Array:
    half = u.shape[-1] // 2
    if interleaved:
        a, b = u[..., 0::2], u[..., 1::2]
        return xp.reshape(xp.stack((a * cos - b * sin, b * cos + a * sin), axis=-1), u.shape)
    a, b = u[..., :half], u[..., half:]
    return xp.concat((a * cos - b * sin, b * cos + a * sin), axis=-1)
