"""A fitted explanation of one wrong output: it describes the numbers, and names no fault.

An explanation is a function. It gets one output in all the cases where it was wrong, and returns a clause, or None if
it does not fit every one of them within what is allowed. The first that fits is taken. The list goes from the strictest
form to the loosest.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from ..case import Case
from ..contracts import CONTRACTS
from ..tolerance.judge import format_factor as number
from . import expressions
from .evidence import EVIDENCE
from .terms import known_factors, low_rank_span, terms
from .wrong import Wrong

_POWERS = {"times": 1.0, "divided by": -1.0, "times the square of": 2.0, "divided by the square of": -2.0}
_TINY = np.finfo(np.float64).tiny
_ROUNDS = 4.0  # half an eps each: the coefficients, times their condition, the products and the sum


def explain(observations: Sequence[Wrong], small: bool = False, places: bool = True) -> str | None:
    """A clause of which the output is the subject, or None. small: the errors could be rounding, so none is loose.
    places: whether an index may be told."""
    for explanation in EXPLANATIONS if small else (*EXPLANATIONS, *LOOSE):
        if explanation in PLACED and not places:
            continue
        if clause := explanation(observations):
            return clause
    return None


def _zero(observations: Sequence[Wrong]) -> str | None:
    return "is zero everywhere" if all(not np.any(one.got) for one in observations) else None


def _factor(observations: Sequence[Wrong]) -> str | None:
    """got = c right."""
    fitted = []
    for one in observations:
        value = one.right.value
        energy = float(np.sum(value * value))
        if energy == 0 or value.size < 2:
            return None
        factor = float(np.sum(value * one.got)) / energy
        if not one.explained(factor * value, factor):
            return None
        fitted.append((one.case, factor, float(np.sum(np.abs(value) * one.right.allowed)) / energy))
    if expression := expressions.name_of(fitted):
        return f"is {_times(expression)} the right one{_legend(expression)}"
    if norm := _common_norm(observations):
        return f"is scaled to the norm {norm:.6g}"
    factors, error = [f for _, f, _ in fitted], max(e * max(1.0, abs(f)) for _, f, e in fitted)
    same = max(factors) - min(factors) <= 2 * error
    if same:
        return f"is {number(fitted[0][1])} times the right one"
    case, factor, _ = fitted[0]
    return f"is a constant times the right one, another in every case ({number(factor)} in {case.id})"


def _common_norm(observations: Sequence[Wrong]) -> float | None:
    """The norm that the output has in every case, if it is one number, as clipping makes it."""
    norms = [float(np.linalg.norm(one.got)) for one in observations]
    error = max(float(np.linalg.norm(one.slack)) for one in observations)
    return norms[0] if len(norms) > 1 and max(norms) - min(norms) <= error else None


def _offset(observations: Sequence[Wrong]) -> str | None:
    """got = right + c. Large numbers in a coarse dtype may hardly show it."""
    finest = min(observations, key=lambda one: float(np.mean(one.slack)))
    errors = finest.got - finest.right.value
    mean = float(np.mean(errors))
    if errors.size < 2 or not finest.explained(finest.right.value + mean):
        return None
    uncertain = float(np.mean(finest.slack)) / (4.0 * errors.size**0.5)  # three standard deviations of the mean
    for c in (*(float(f"{mean:.{digits}g}") for digits in (1, 2, 3)), mean):
        within = (np.abs(one.got - one.right.value - c) <= one.slack for one in observations)
        if abs(c - mean) <= uncertain and all(map(np.all, within)):
            return f"is off by {number(c)} everywhere"
    return None


def _terms(observations: Sequence[Wrong]) -> str | None:
    """got = sum of c_t term_t, where the right one is the sum of the terms."""
    coefficients: dict[str, list[tuple[Case, float, float]]] = {}
    for one in observations:
        values = terms(one.case, one.name)
        if len(values) < 2:
            return None
        values = {name: value for name, value in values.items() if np.any(value)}
        columns = np.stack([value.ravel() for value in values.values()], axis=1)
        if not np.all(np.isfinite(columns)) or np.linalg.matrix_rank(columns) < columns.shape[1]:
            return None
        c, *_ = np.linalg.lstsq(columns, one.got.ravel(), rcond=None)
        rounding = _ROUNDS * np.linalg.cond(columns) * np.finfo(np.float64).eps * (np.abs(columns) @ np.abs(c))
        if not one.explained(
            (columns @ c).reshape(one.got.shape), float(np.max(np.abs(c))), rounding.reshape(one.got.shape)
        ):
            return None
        spread = np.linalg.norm(np.linalg.pinv(columns), axis=1) * float(np.max(one.right.allowed))
        for name, coefficient, error in zip(values, c, spread, strict=True):
            coefficients.setdefault(name, []).append((one.case, float(coefficient), 4.0 * float(error)))
    clauses = []
    for name, fitted in coefficients.items():
        if all(abs(c - 1.0) <= error for _, c, error in fitted):
            continue
        expression = expressions.name_of(fitted)
        if expression == "0":
            clauses.append(f"lacks its term {name}")
        elif expression == "2":
            clauses.append(f"has its term {name} twice")
        elif expression:
            clauses.append(f"has {_times(expression)} its term {name}{_legend(expression)}")
        else:
            case, coefficient, _ = fitted[0]
            clauses.append(f"has {number(coefficient)} times its term {name} ({case.id})")
    return " and ".join(clauses) or None


def _low_rank_alone(observations: Sequence[Wrong]) -> str | None:
    """got = right + any combination of what spans the low-rank term: the base term is right."""
    evidence, what = 0.0, ""
    for one in observations:
        span = low_rank_span(one.case, one.name)
        bits = None if span is None else _bits_in_span(one, span.rows, span.axis)
        if span is None or bits is None:
            return None
        evidence, what = evidence + bits, span.what
    if evidence < EVIDENCE:
        return None
    base, low = CONTRACTS[observations[0].case.contract].terms[observations[0].name]
    return f"has a wrong low-rank term {low}, and a right base term {base}: its error is made up of {what} alone"


def _bits_in_span(one: Wrong, rows: np.ndarray, axis: int) -> float | None:
    """How unlikely it is that the error is by chance a combination of these rows, in bits; None if it is none."""
    error, slack = (np.moveaxis(t, axis, -1).reshape(-1, t.shape[axis]) for t in (one.got - one.right.value, one.slack))
    free = error.shape[1] - len(rows)
    if free <= 0:
        return 0.0  # such rows span everything, so this case says nothing
    if np.any(np.abs(error - error @ np.linalg.pinv(rows) @ rows) > 2.0 * slack):
        return None
    bits = np.log2(np.maximum(np.abs(error) / np.where(slack > 0, slack, np.inf), 1.0))
    return float(np.sum(bits)) * free / error.shape[1]


def _plus_an_input(observations: Sequence[Wrong]) -> str | None:
    """got = right + c input, as weight decay in a gradient is."""
    for name in observations[0].case.arrays:
        added = [found for one in observations if (found := _added(one, name))]
        if len(added) < len(observations):
            continue
        factors, error = [c for c, _ in added], max(e for _, e in added)
        if max(factors) - min(factors) <= 2.0 * error:
            return f"has {number(factors[0])} times {name} added to it"
        return f"has a multiple of {name} added to it ({number(factors[0])} in {observations[0].case.id})"
    return None


def _added(one: Wrong, name: str) -> tuple[float, float] | None:
    """The multiple of an input that is added to the right output, and its error; None where that is not so."""
    array = one.case.get(name)
    if array is None or array.shape != one.got.shape or array.dtype.kind in "biu" or array.size < 2:
        return None
    t = array.astype(np.float64)
    energy = float(np.sum(t * t))
    c = float(np.sum((one.got - one.right.value) * t)) / energy if energy else 0.0
    if not c or not one.explained(one.right.value + c * t, 1.0 + abs(c)):
        return None
    return c, float(np.linalg.norm(one.slack)) / energy**0.5


def _times_a_term(observations: Sequence[Wrong]) -> str | None:
    """got = right times a power of something that the op computes on the way, or that it is given."""
    known = [known_factors(one.case, one.got.shape) for one in observations]
    for formula in known[0]:
        if not all(formula in factors for factors in known):
            continue
        for says, power in _POWERS.items():
            if all(_is_times(one, factors[formula], power) for one, factors in zip(observations, known, strict=True)):
                return f"is the right one {says} {formula}"
    return None


def _is_times(one: Wrong, factors: np.ndarray, power: float) -> bool:
    with np.errstate(all="ignore"):
        value = one.right.value * factors**power
    scale = np.max(np.abs(value), initial=0.0) / max(float(np.max(np.abs(one.right.value), initial=0.0)), _TINY)
    return bool(np.isfinite(value).all()) and one.explained(value, float(scale))


def _exchanged(observations: Sequence[Wrong]) -> str | None:
    """got is the right answer of another output."""
    for other in observations[0].rights:
        if other != observations[0].name and all(
            other in one.rights
            and one.rights[other].value.shape == one.got.shape
            and np.all(np.abs(one.got - one.rights[other].value) <= one.rights[other].allowed)
            for one in observations
        ):
            return f"is what {other} should be"
    return None


def _transposed(observations: Sequence[Wrong]) -> str | None:
    """The same numbers, transposed or in the other order of storage."""
    for change_made, change in (
        ("transposed", lambda t: t.T),
        ("laid out in the other order (the numbers of its transpose, cut into its own shape)", _other_order),
    ):
        if all(
            one.got.ndim == 2
            and min(one.got.shape) > 1
            and change(one.right.value).shape == one.got.shape
            and np.all(np.abs(one.got - change(one.right.value)) <= change(one.right.allowed))
            for one in observations
        ):
            return f"is {change_made}"
    return None


def _other_order(t: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(t.T).reshape(t.shape)


def _permuted(observations: Sequence[Wrong]) -> str | None:
    """The right slices in another order along one axis."""
    for axis in _axes(observations):
        orders = [_order(one, axis) for one in observations]
        if all(order is not None for order in orders):
            order, along = ", ".join(map(str, orders[0] or ())), _name(axis, observations)
            return f"has its slices along {along} in another order ({order} in {observations[0].case.id})"
    return None


def _axes(observations: Sequence[Wrong]) -> range:
    """The axes that the output has in every case, counted from the end: tokens may have one axis or several."""
    return range(-min(one.got.ndim for one in observations), 0)


def _name(axis: int, observations: Sequence[Wrong]) -> str:
    """ "axis 1", or "axis -1" where the cases have different numbers of axes."""
    ndims = {one.got.ndim for one in observations}
    return f"axis {axis + ndims.pop() if len(ndims) == 1 else axis}"


def _order(one: Wrong, axis: int) -> list[int] | None:
    right, allowed = (np.moveaxis(t, axis, 0) for t in (one.right.value, one.slack))
    got = np.moveaxis(one.got, axis, 0)
    order = []
    for slice_ in got:
        matches = [i for i in range(len(right)) if np.all(np.abs(slice_ - right[i]) <= allowed[i])]
        if len(matches) != 1:
            return None
        order.append(matches[0])
    return order if sorted(order) == list(range(len(right))) else None


def _factor_per_slice(observations: Sequence[Wrong]) -> str | None:
    """got = c_i right along one axis: rows, columns or heads with factors of their own."""
    for axis in _axes(observations):
        slices = [_slice_factors(one, axis) for one in observations]
        if all(factors is not None for factors in slices) and _bits_beside_factors(observations, axis) >= EVIDENCE:
            first, along = ", ".join(number(c) for c in (slices[0] or [])[:6]), _name(axis, observations)
            return f"has a factor of its own for every index of {along} ({first} ... in {observations[0].case.id})"
    return None


def _slice_factors(one: Wrong, axis: int) -> list[float] | None:
    if one.got.size == one.got.shape[axis]:
        return None  # a factor for every element explains everything
    right, allowed, got = (np.moveaxis(t, axis, 0) for t in (one.right.value, one.slack, one.got))
    factors = []
    for r, a, g in zip(right, allowed, got, strict=True):
        energy = float(np.sum(r * r))
        c = float(np.sum(r * g)) / energy if energy else 0.0
        if not np.all(np.abs(g - c * r) <= max(abs(c), 1.0) * a):
            return None
        factors.append(c)
    return factors


def _bits_beside_factors(observations: Sequence[Wrong], axis: int) -> float:
    """How unlikely it is that factors of their own explain these errors by chance, in bits. Each factor fits any one
    number, so the largest error of each slice is no evidence."""
    evidence = 0.0
    for one in observations:
        error, slack = (
            np.moveaxis(t, axis, 0).reshape(t.shape[axis], -1) for t in (one.got - one.right.value, one.slack)
        )
        bits = np.log2(np.maximum(np.abs(error) / np.where(slack > 0, slack, np.inf), 1.0))
        evidence += float(np.sum(bits) - np.sum(np.max(bits, axis=1)))
    return evidence


def _confined(observations: Sequence[Wrong]) -> str | None:
    """Wrong in some slices of an axis and right in all others."""
    for axis in _axes(observations):
        places = [_places(one, axis) for one in observations]
        if all(places):
            where = _positions(observations, places, axis)
            return f"is wrong {where} of {_name(axis, observations)} only, and right elsewhere"
    return None


def _places(one: Wrong, axis: int) -> list[int] | None:
    wrong = np.any(np.moveaxis(one.wrong, axis, 0).reshape(one.got.shape[axis], -1), axis=1)
    where = [int(i) for i in np.flatnonzero(wrong)]
    return where if 0 < len(where) <= len(wrong) // 2 else None


def _positions(observations: Sequence[Wrong], places: Sequence[list[int] | None], axis: int) -> str:
    if all(p == [0] for p in places):
        return "at the first index"
    if all(p == [one.got.shape[axis] - 1] for one, p in zip(observations, places, strict=True)):
        return "at the last index"
    if all(p == [one.case.config.get("padding_idx")] for one, p in zip(observations, places, strict=True)):
        return "at padding_idx"
    indices = ", ".join(map(str, (places[0] or [])[:8]))
    return f"at index {indices} ({observations[0].case.id})"


EXPLANATIONS: tuple[Callable[[Sequence[Wrong]], str | None], ...] = (
    _zero,
    _factor,
    _offset,
    _plus_an_input,
    _times_a_term,
    _exchanged,
    _transposed,
    _permuted,
    _terms,
    _low_rank_alone,
)

# These have a number for every slice, or say where and not what: rounding may look like that, too.
LOOSE: tuple[Callable[[Sequence[Wrong]], str | None], ...] = (_factor_per_slice, _confined)

PLACED = (_permuted, *LOOSE)  # these tell indices


def _times(expression: str) -> str:
    return "minus" if expression == "-1" else f"{expression} times"


def _legend(expression: str) -> str:
    symbols = set(re.findall(r"[A-Za-z]+", expression))
    meanings = [meaning for symbol, meaning in expressions.LEGEND.items() if symbol in symbols]
    return f" ({', '.join(meanings)})" if meanings else ""
