"""The exact check, for ops that are polynomials of their inputs: no rounding, no tolerance.

Every floating array among the inputs, every float or complex number among them, dy and the direction v are
drawn uniformly from 2^80 consecutive Python integers; arrays of integers and bools (ids, masks) stay. Along
v, one input at a time, f(t) = <dy, op(x + t v)> is a polynomial of t. Up to degree 4,

    12 f'(0) = 8 (f(1) - f(-1)) - (f(2) - f(-2))

holds exactly, and must equal 12 <g, v>. That the degree is at most 4 is checked too: the fifth difference
f(3) - 5 f(2) + 10 f(1) - 10 f(0) + 5 f(-1) - f(-2) must vanish.

Why equality once means equality everywhere. <g, v> - f'(0) is a polynomial in all that was drawn. If it is
not zero, and op's pullback and the true one have total degree at most D in inputs and dy together, its degree
is at most D + 1, and by the lemma of Schwartz and Zippel it vanishes at a point drawn so for at most (D + 1)
/ 2^80 of the draws. The degree D = 16 is generous: LoRA's dx has 5 (s, dy, B, A, mask). What is fixed is
the shapes, the ids and the bools.

Source: Schwartz, J. ACM 27, 1980; Zippel, EUROSAM 1979.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from ._interface import Array, CannotJudge, Subject, is_floating
from ._report import InputResult

BITS = 80
DEGREE = 16
PROBABILITY = f"2^-{BITS - (DEGREE + 1).bit_length()}"
PROMISE = (
    f"exact: a wrong pullback (a polynomial of total degree <= {DEGREE}, wrong at these shapes) "
    f"passes with probability < {PROBABILITY}"
)


def draw(inputs: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """The inputs, with random Python integers for whatever is floating or complex."""
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


def subject_on_integers(
    op: Callable[..., Any], inputs: dict[str, Any], config: dict[str, Any], rng: np.random.Generator
) -> Subject:
    """The op called and asked on integers. Raises CannotJudge where it does not run on them."""
    try:
        subject = Subject(op, draw(inputs, rng), config)
        _refuse_inexact("y", subject.y)
        subject.ask(integers(subject.y.shape, rng))
    except CannotJudge:
        raise
    except Exception as error:  # it ran on floats, so this is the integers' doing
        reason = f"{type(error).__name__}: {error}"
        raise CannotJudge(f"the op does not run on Python integers ({reason})") from error
    return subject


def check(subject: Subject, rng: np.random.Generator) -> list[InputResult]:
    """One result for each input."""
    results = []
    for name in subject.gradients:
        try:
            results.append(_check_input(subject, name, integers(subject.inputs[name].shape, rng)))
        except CannotJudge as reason:
            results.append(InputResult(name, False, note=str(reason)))
    return results


def _check_input(subject: Subject, name: str, v: Array) -> InputResult:
    for g in subject.gradients[name]:
        _refuse_inexact("the gradient", g)
    f = {t: _along(subject, name, v, t) for t in range(-2, 4)}
    if f[3] - 5 * f[2] + 10 * f[1] - 10 * f[0] + 5 * f[-1] - f[-2] != 0:
        raise CannotJudge("the op is not a polynomial of degree <= 4 in this input")
    twelve_times = 8 * (f[1] - f[-1]) - (f[2] - f[-2])
    for g in subject.gradients[name]:
        got = dot(g, v)
        if 12 * got != twelve_times:
            note = _note(12 * got, twelve_times)
            return InputResult(name, False, None, None, twelve_times // 12, got, note)
    return InputResult(name, True, 0.0)


def _along(subject: Subject, name: str, v: Array, t: int) -> int:
    y = subject.value({name: np.asarray(subject.inputs[name] + t * v, dtype=object)})
    _refuse_inexact("y", y)
    return dot(subject.dy, y)


def dot(a: Array, b: Array) -> int:
    return sum(p * q for p, q in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))


def _refuse_inexact(what: str, array: Array) -> None:
    """A float has rounded, and NumPy's own integers wrap around at 2^63 without a word."""
    if array.dtype == object:
        strangers = {type(value).__name__ for value in array.ravel().tolist() if type(value) is not int}
    else:
        strangers = {array.dtype.name}
    if strangers:
        raise CannotJudge(
            f"{what} holds {', '.join(sorted(strangers))} and not Python integers: the op divides, rounds or "
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
