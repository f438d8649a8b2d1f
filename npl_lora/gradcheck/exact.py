"""The exact check, for ops that are polynomials of their inputs: no rounding, no tolerance.

The numbers are drawn uniformly from 2^80 consecutive Python integers: every floating array and every float or complex
number among the inputs, dy, and a direction v. Arrays of integers and bools (ids, masks) stay. Along v, one input at a
time, f(t) = <dy, op(x + t v)> is a polynomial of t. For a polynomial of degree at most 4,

    12 f'(0) = 8 (f(1) - f(-1)) - (f(2) - f(-2))

holds exactly, and must equal 12 <g, v>. The degree is checked too: with degree at most 4, the fifth difference
f(3) - 5 f(2) + 10 f(1) - 10 f(0) + 5 f(-1) - f(-2) vanishes.

Why equality at one point means equality everywhere. <g, v> - f'(0) is a polynomial in everything that was drawn. Let D
bound the total degree of op's pullback and of the true one, in the inputs and dy together. Then the polynomial has
degree at most D + 1. If it is not zero everywhere, then by the lemma of Schwartz and Zippel it is zero for at most
(D + 1) / 2^80 of the draws. D = 16 is generous: LoRA's dx has degree 5 (s, dy, B, A, mask). The shapes, the ids and the
bools are fixed, so the check says nothing about others.

Source: Schwartz, J. ACM 27, 1980; Zippel, EUROSAM 1979.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from ._interface import Array, CannotJudge, OpUnderTest, is_floating
from ._report import InputResult

BITS = 80
DEGREE = 16
PROBABILITY = f"2^-{BITS - (DEGREE + 1).bit_length()}"
PROMISE = (
    f"exact: a wrong pullback (a polynomial of total degree <= {DEGREE}, wrong at these shapes) "
    f"passes with probability < {PROBABILITY}"
)


def draw(inputs: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """The inputs, with random Python integers in place of everything floating or complex."""
    drawn = {}
    for name, value in inputs.items():
        if is_floating(value):
            drawn[name] = integers(value.shape, rng)
        else:
            drawn[name] = _integer(rng) if isinstance(value, (float, complex)) else value
    return drawn


def integers(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """An object array of Python integers."""
    out = np.empty(shape, dtype=object)
    for i in np.ndindex(shape):
        out[i] = _integer(rng)
    return out


def _integer(rng: np.random.Generator) -> int:
    """Uniform in -2^79 <= n < 2^79."""
    return int.from_bytes(rng.bytes(BITS // 8), "little") - 2 ** (BITS - 1)


def on_integers(
    op: Callable[..., Any], inputs: dict[str, Any], config: dict[str, Any], rng: np.random.Generator
) -> OpUnderTest:
    """The op under test, on random integers. Raises CannotJudge where it does not run on them."""
    try:
        tested = OpUnderTest(op, draw(inputs, rng), config)
        _refuse_inexact("y", tested.y)
        tested.ask(integers(tested.y.shape, rng))
    except CannotJudge:
        raise
    except Exception as error:  # it ran on floats, so the integers are the cause
        reason = f"{type(error).__name__}: {error}"
        raise CannotJudge(f"the op does not run on Python integers ({reason})") from error
    return tested


def check(tested: OpUnderTest, rng: np.random.Generator) -> list[InputResult]:
    """One result for each input."""
    results = []
    for name in tested.gradients:
        try:
            results.append(_check_input(tested, name, integers(tested.inputs[name].shape, rng)))
        except CannotJudge as reason:
            results.append(InputResult(name, False, note=str(reason)))
    return results


def _check_input(tested: OpUnderTest, name: str, v: Array) -> InputResult:
    for g in tested.gradients[name]:
        _refuse_inexact("the gradient", g)
    f = {t: _along(tested, name, v, t) for t in range(-2, 4)}
    if f[3] - 5 * f[2] + 10 * f[1] - 10 * f[0] + 5 * f[-1] - f[-2] != 0:
        raise CannotJudge("the op is not a polynomial of degree <= 4 in this input")
    twelve_times = 8 * (f[1] - f[-1]) - (f[2] - f[-2])
    for g in tested.gradients[name]:
        got = dot(g, v)
        if 12 * got != twelve_times:
            note = _note(12 * got, twelve_times)
            return InputResult(name, False, None, None, twelve_times // 12, got, note)
    return InputResult(name, True, 0.0)


def _along(tested: OpUnderTest, name: str, v: Array, t: int) -> int:
    y = tested.value({name: np.asarray(tested.inputs[name] + t * v, dtype=object)})
    _refuse_inexact("y", y)
    return dot(tested.dy, y)


def dot(a: Array, b: Array) -> int:
    return sum(p * q for p, q in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))


def _refuse_inexact(what: str, array: Array) -> None:
    """Raises CannotJudge for other numbers: floats round, and NumPy's integers wrap around at 2^63 silently."""
    if array.dtype == object:
        other_types = {type(value).__name__ for value in array.ravel().tolist() if type(value) is not int}
    else:
        other_types = {array.dtype.name}
    if other_types:
        raise CannotJudge(
            f"{what} holds {', '.join(sorted(other_types))} and not Python integers: the op divides, rounds or "
            "takes a float from config (put numbers such as scale among the inputs)"
        )


def _note(got: int, expected: int) -> str:
    if got == 0:
        return "the gradient is zero along a random direction"
    if expected == 0:
        return "the derivative is zero along a random direction"
    ratio = Fraction(got, expected)
    if ratio.denominator < 1000 and abs(ratio.numerator) < 1000:
        return f"exactly {ratio} times what is expected along a random direction"
    return "wrong along a random direction"
