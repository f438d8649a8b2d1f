"""rope with other angles: known tables of them, other pairs, and whatever angles they are, read from y and x.

Each pair (a, b) of coordinates is a complex number a + i b, which rope turns by an angle: y = exp(i phi) x, and
dx = exp(-i phi) dy. All heads and batch rows of a position share its angles, so one of these numbers tells the angle,
and the others bear it out.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from ...ops import rope
from ...support.array import Array
from ..case import Case, widen
from ..definition import AnswerFunction, Config
from ..faults.wraps import as_numpy
from ..report import Claim, Observed
from ..tolerance.judge import format_factor
from ..tolerance.rounding import PRECISIONS
from .compare import quick_distance
from .hypothesis import Hypothesis
from .where import short_name
from .words import listed

Table = Callable[[np.ndarray, np.ndarray, int, float], np.ndarray]  # (p (T, 1), i (D/2,), D, theta) -> angles (T, D/2)
Turn = Callable[[Array, np.ndarray, bool], Array]  # (x (..., T, D), angles (T, D/2), interleaved) -> x, turned

_INPUTS = {"y": ("x", 1.0), "dx": ("dy", -1.0)}  # what each output is the turned one of, and by which multiple of phi
_RANK = 11
_OTHER = 64.0  # an angle is another one if it is off by so many roundings of the dtype


def _right(p: np.ndarray, i: np.ndarray, D: int, theta: float) -> np.ndarray:
    return np.asarray(p * theta ** (-2.0 * i / D))


def _in_float16(p: np.ndarray, i: np.ndarray, D: int, theta: float) -> np.ndarray:
    return _right(p, i, D, theta).astype(np.float16).astype(np.float64)


def _with_rounded_frequencies(bits: int, p: np.ndarray, i: np.ndarray, D: int, theta: float) -> np.ndarray:
    mantissa, exponent = np.frexp(theta ** (-2.0 * i / D))
    return np.asarray(p * np.ldexp(np.round(np.ldexp(mantissa, bits)), exponent - bits))


TABLES: dict[str, Table] = {
    "the angles were taken for degrees": lambda p, i, D, theta: np.radians(_right(p, i, D, theta)),
    "the frequencies were theta^(-2(i + 1) / D)": lambda p, i, D, theta: _right(p, i + 1, D, theta),
    "the frequencies were 1 - 2i / D": lambda p, i, D, theta: p * (1.0 - 2.0 * i / D),
    "the frequencies were theta^(-2i / (D - 2))": lambda p, i, D, theta: _right(p, i, max(D - 2, 1), theta),
    "the frequencies were in the reverse order": lambda p, i, D, theta: _right(p, i[::-1], D, theta),
    "sin and cos were swapped": lambda p, i, D, theta: np.pi / 2.0 - _right(p, i, D, theta),
    "the positions were divided by the largest": (
        lambda p, i, D, theta: _right(p / max(float(np.max(p)), 1.0), i, D, theta)
    ),
    "the positions were sorted": lambda p, i, D, theta: _right(np.sort(p, axis=0), i, D, theta),
    "the angles were rounded to float16": _in_float16,
    "the frequencies were rounded to float16": partial(_with_rounded_frequencies, 11),
    "the frequencies were rounded to bfloat16": partial(_with_rounded_frequencies, 8),
}


def _turned(x: Array, angles: np.ndarray, interleaved: bool) -> Array:
    """Each pair of each row turned by its own angle: a call of rope for each row."""
    rows = [
        rope(x[..., t : t + 1, :], start=1, frequencies=tuple(map(float, row)), interleaved=interleaved)[0]
        for t, row in enumerate(angles)
    ]
    return x.__array_namespace__().concat(tuple(rows), axis=-2)


def _from_both_ends(x: Array, angles: np.ndarray, interleaved: bool) -> Array:
    """The pairs (i, D - 1 - i) in the place of (i, i + D/2)."""
    if interleaved:
        return _turned(x, angles, interleaved)
    D = x.shape[-1]
    order = [*range(D // 2), *reversed(range(D // 2, D))]  # which undoes itself
    return _turned(x[..., order], angles, interleaved)[..., order]


def _of_first_half(x: Array, angles: np.ndarray, interleaved: bool) -> Array:
    """The first half of the coordinates, in an even number; the others stay."""
    turned = x.shape[-1] // 4
    first = _turned(x[..., : 2 * turned], angles[:, :turned], interleaved)
    return x.__array_namespace__().concat((first, x[..., 2 * turned :]), axis=-1)


WAYS: dict[str, tuple[Table, Turn]] = {
    **{says: (table, _turned) for says, table in TABLES.items()},
    "the pairs were (i, D - 1 - i)": (_right, _from_both_ends),
    "the first half of the coordinates was turned alone": (_right, _of_first_half),
    "the first half of the coordinates was turned alone, with D/2 for D in the exponent": (
        lambda p, i, D, theta: _right(p, i, 2 * (D // 4), theta),
        _of_first_half,
    ),
}


def rope_edits(case: Case) -> Iterator[Hypothesis]:
    """rope with each of these tables or pairs."""
    if case.contract == "rope":
        for says, (table, turn) in WAYS.items():
            yield Hypothesis(says, _answer_with(table, turn), _RANK)


def _answer_with(table: Table, turn: Turn) -> AnswerFunction:
    def answer(arrays: Mapping[str, Array], config: Config) -> dict[str, Array]:
        angles = _angles(table, arrays, config)
        return {name: turn(arrays[of], sign * angles, config["interleaved"]) for name, (of, sign) in _INPUTS.items()}

    return answer


def _angles(table: Table, arrays: Mapping[str, Array], config: Config) -> np.ndarray:
    D = arrays["x"].shape[-1]
    positions = np.asarray(as_numpy(arrays["positions"]), dtype=np.float64)
    return table(positions[:, None], np.arange(D // 2), D, config["theta"])


def other_angles(failing: Sequence[Observed], outputs: Collection[str]) -> list[Claim]:
    """The claims that explain these outputs of rope in every case in which they are wrong, if other angles do."""
    if failing[0].case.contract != "rope":
        return []
    finest = min(PRECISIONS[one.case.dtype].store for one in failing)
    says: dict[str, list[str]] = {}
    for name in outputs:
        wrong = [one for one in failing if name in one.failed and PRECISIONS[one.case.dtype].store == finest]
        if wrong and (clause := _other(wrong, name)):
            says.setdefault(clause, []).append(name)
    return [Claim((), tuple(names), f"{listed(names)}: {clause}.") for clause, names in says.items()]


def _other(wrong: Sequence[Observed], name: str) -> str | None:
    clauses = []
    for one in wrong:
        angles = _read(one, name)
        if angles is None:
            return None
        clauses.append(_first_other(one.case, angles))
    return next(filter(None, clauses), None)


def _read(one: Observed, name: str) -> np.ndarray | None:
    """The angles that give this output; None where none do."""
    got, arrays, (of, sign) = (one.outputs or {})[name], widen(one.case), _INPUTS[name]
    given, interleaved = arrays[of], one.case.config["interleaved"]
    if got.shape != given.shape or got.dtype.kind != "f" or not np.isfinite(got).all():
        return None
    turns = np.conj(_pairs(given, interleaved)) * _pairs(got.astype(np.float64), interleaved)
    angles = sign * np.angle(np.sum(turns, axis=tuple(range(turns.ndim - 2))))
    return angles if quick_distance(_turned(given, sign * angles, interleaved), one, name) < 1.0 else None


def _pairs(t: np.ndarray, interleaved: bool) -> np.ndarray:
    half = t.shape[-1] // 2
    a, b = (t[..., 0::2], t[..., 1::2]) if interleaved else (t[..., :half], t[..., half:])
    return np.asarray(a + 1j * b)


def _first_other(case: Case, angles: np.ndarray) -> str | None:
    """The first angle that is not the right one, whole turns aside."""
    right = _angles(_right, widen(case), case.config)
    nearest = angles + 2.0 * np.pi * np.round((right - angles) / (2.0 * np.pi))
    other = np.argwhere(np.abs(nearest - right) > _OTHER * PRECISIONS[case.dtype].store * (1.0 + np.abs(right)))
    if not len(other):
        return None
    t, i = other[0]
    return (
        f"as if rope's angles were others: at position {int(case['positions'][t])} (row {t}), pair {i}, "
        f"{format_factor(nearest[t, i])}, expected {format_factor(right[t, i])} ({short_name(case)})"
    )
