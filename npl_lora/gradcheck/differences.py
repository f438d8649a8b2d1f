"""Central differences, with Richardson's extrapolation and an error estimate of their own.

    D(h) = (f(x + h v) - f(x - h v)) / (2h) = f'(x) + c2 h^2 + c4 h^4 + ...

Halving h and combining D(h/2) + (D(h/2) - D(h)) / (4^m - 1) removes one power after another. Small steps lose
digits to rounding, large ones to the remaining powers; of the triangle of results, the entry with the least
estimated error is taken, element by element: its distance from its two parents, plus 4 eps max|y| / h for
rounding. A gradient passes within 10 such errors, plus rtol. It runs on the real forward alone, so it also
checks one that is not complex-safe; it reaches about 1e-11, and where it finds a derivative no more closely
than 1e-5 it refuses to judge.

affine=True, for an op that is affine in each input alone, as the whole of LoRA's linear algebra is: then D(h)
has no error but rounding at any h. h is the power of two near the input's largest element, nothing is
extrapolated, and 1e-13 is reached. (f(x + hv) - 2 f(x) + f(x - hv) must vanish; an op that is not affine is
reported as such.)

Source: Richardson, Phil. Trans. A 210, 1911; the choice of the entry is Ridders', Adv. Eng. Software 4, 1982.
"""

from collections.abc import Mapping

import numpy as np

from ._compare import compare
from ._interface import Array, CannotJudge, Subject
from ._report import InputResult

RTOL = 5e5  # of eps: 1e-10 in float64
RTOL_AFFINE = 1e-13
STEPS = 12
ORDERS = 6


def check(
    subject: Subject, rng: np.random.Generator, rtol: float | None, directions: int | None, affine: bool
) -> list[InputResult]:
    """One result for each input, from every element or from so many random directions."""
    if rtol is None:
        rtol = RTOL_AFFINE if affine else RTOL * float(np.finfo(subject.dy.dtype).eps)
    results = []
    for name in subject.gradients:
        try:
            results.append(_check_input(subject, name, rng, rtol, directions, affine))
        except CannotJudge as reason:
            results.append(InputResult(name, False, note=str(reason)))
    return results


def _check_input(
    subject: Subject, name: str, rng: np.random.Generator, rtol: float, directions: int | None, affine: bool
) -> InputResult:
    x = subject.inputs[name]
    if directions is None:
        vs = _unit_vectors(x)
        shape = x.shape
    else:
        vs = [np.asarray(rng.standard_normal(x.shape), x.dtype) for _ in range(directions)]
        shape = (directions,)
    find = _affine if affine else richardson
    found = [find(subject, {name: v}) for v in vs]
    expected = np.array([np.sum(subject.dy * d) for d, _ in found], x.dtype).reshape(shape)
    error = np.array([np.sum(np.abs(subject.dy) * e) for _, e in found], x.dtype).reshape(shape)
    terms = np.array([np.sum(np.abs(subject.dy * d)) for d, _ in found], x.dtype).reshape(shape)
    if directions is not None:
        g = subject.gradients[name][0]
        terms = terms + np.array([np.sum(np.abs(g * v)) for v in vs])
    scale = np.max(terms, initial=0.0)
    if scale and not np.max(error, initial=0.0) <= 1e-5 * scale:
        raise CannotJudge(f"differences do not settle to better than {np.max(error):.0e}; try complex-step")

    def measure(g: Array) -> Array:
        return g if directions is None else np.array([np.sum(g * v) for v in vs])

    return compare(name, subject.gradients[name], expected, 10.0 * error + rtol * scale, scale, measure)


def _unit_vectors(x: Array) -> list[Array]:
    units = np.zeros((x.size, x.size), x.dtype)
    np.fill_diagonal(units, 1.0)
    return [unit.reshape(x.shape) for unit in units]


def richardson(subject: Subject, direction: Mapping[str, Array]) -> tuple[Array, Array]:
    """J v and an estimate of its error, element by element."""
    dtype = subject.dy.dtype
    largest_step = _power_of_two(subject, direction) / 8.0
    best, best_error = np.full(subject.y.shape, np.nan, dtype), np.full(subject.y.shape, np.inf, dtype)
    above: list[Array] = []
    with np.errstate(all="ignore"):  # a long step may leave the domain; its NaN is never the best entry
        for k in range(STEPS):
            difference, rounding = _central(subject, direction, largest_step / 2.0**k)
            row = [difference]
            for m in range(1, min(k, ORDERS) + 1):
                row.append(row[m - 1] + (row[m - 1] - above[m - 1]) / (4.0**m - 1.0))
                error = np.maximum(np.abs(row[m] - row[m - 1]), np.abs(row[m] - above[m - 1])) + rounding
                better = error < best_error
                best, best_error = np.where(better, row[m], best), np.where(better, error, best_error)
            above = row
            if np.all(best_error <= 2.0 * rounding):
                break  # a shorter step would only round worse
    return best, _doubted(subject, direction, best, best_error)


def _doubted(subject: Subject, direction: Mapping[str, Array], best: Array, error: Array) -> Array:
    """The estimate, raised where a very short step disagrees: a kink in between deceives the estimate."""
    short, short_error = short_step(subject, direction)
    apart = np.abs(best - short)
    return np.where(apart > 1e-3 * np.abs(short) + 100.0 * short_error, apart, error)


def short_step(subject: Subject, direction: Mapping[str, Array]) -> tuple[Array, Array]:
    """J v by one central difference with a step of 1e-8, and its rounding: coarse, and hard to deceive."""
    return _central(subject, direction, _power_of_two(subject, direction) * 2.0**-26)


def _central(subject: Subject, direction: Mapping[str, Array], h: float) -> tuple[Array, float]:
    """(f(x + h v) - f(x - h v)) / 2h, and what the rounding of f may make of it."""
    plus, minus = _at(subject, direction, h), _at(subject, direction, -h)
    rounding = float(4.0 * np.finfo(subject.dy.dtype).eps * np.max(np.abs(plus), initial=0.0) / h)
    return (plus - minus) / (2.0 * h), rounding


def _affine(subject: Subject, direction: Mapping[str, Array]) -> tuple[Array, Array]:
    """J v by one long step, and a tenth of what the rounding of f may make of it."""
    h = _power_of_two(subject, direction)
    plus, middle, minus = _at(subject, direction, h), subject.y, _at(subject, direction, -h)
    size = np.max(np.abs(plus) + 2.0 * np.abs(middle) + np.abs(minus), initial=0.0)
    if not np.all(np.abs(plus - 2.0 * middle + minus) <= 1e-12 * size):
        raise CannotJudge("y is not affine in this input alone: leave affine out")
    rounding = 0.1 * np.finfo(subject.dy.dtype).eps * size / h
    return (plus - minus) / (2.0 * h), np.full(middle.shape, rounding)


def _at(subject: Subject, direction: Mapping[str, Array], t: float) -> Array:
    return subject.value({name: subject.inputs[name] + t * v for name, v in direction.items()})


def _power_of_two(subject: Subject, direction: Mapping[str, Array]) -> float:
    """Near the largest element of what is moved, so that x + h v loses no digits of either. 1 for zeros."""
    size = max(float(np.max(np.abs(subject.inputs[name]), initial=0.0)) for name in direction)
    return 2.0 ** round(np.log2(size)) if 0.0 < size < np.inf else 1.0
