"""Central differences, with Richardson's extrapolation and an estimate of their own error.

    D(h) = (f(x + h v) - f(x - h v)) / (2h) = f'(x) + c2 h^2 + c4 h^4 + ...

Halving h and combining D(h/2) + (D(h/2) - D(h)) / (4^m - 1) removes one power of h after another, which gives a
triangle of results. Small steps lose digits to rounding, large ones to the remaining powers. So each element takes the
entry of the triangle with the least estimated error: its distance from its two parents, plus 4 eps max|y| / h for
rounding. A gradient passes within 10 such errors plus rtol.

This uses the real forward only, so it also works for a forward that is not complex-safe. It reaches about 1e-11. Where
it cannot find a derivative to better than 1e-5, it refuses to judge.

affine=True is for an op that is affine in each input alone, as all of LoRA's linear algebra is. Then D(h) has no error
but rounding, at any h. So h is the power of two near the input's largest element, nothing is extrapolated, and 1e-13 is
reached. f(x + hv) - 2 f(x) + f(x - hv) must vanish; an op that is not affine is reported.

Source: Richardson, Phil. Trans. A 210, 1911; the choice of the entry is Ridders', Adv. Eng. Software 4, 1982.
"""

from collections.abc import Mapping

import numpy as np

from ._compare import compare
from ._interface import Array, CannotJudge, OpUnderTest
from ._report import InputResult

RTOL = 5e5  # of eps: 1e-10 in float64
RTOL_AFFINE = 1e-13
STEPS = 12
ORDERS = 6


def check(
    tested: OpUnderTest, rng: np.random.Generator, rtol: float | None, directions: int | None, affine: bool
) -> list[InputResult]:
    """One result for each input, from every element or from this many random directions."""
    if rtol is None:
        rtol = RTOL_AFFINE if affine else RTOL * float(np.finfo(tested.dy.dtype).eps)
    results = []
    for name in tested.gradients:
        try:
            results.append(_check_input(tested, name, rng, rtol, directions, affine))
        except CannotJudge as reason:
            results.append(InputResult(name, False, note=str(reason)))
    return results


def _check_input(
    tested: OpUnderTest, name: str, rng: np.random.Generator, rtol: float, directions: int | None, affine: bool
) -> InputResult:
    x = tested.inputs[name]
    if directions is None:
        vs = _unit_vectors(x)
        shape = x.shape
    else:
        vs = [np.asarray(rng.standard_normal(x.shape), x.dtype) for _ in range(directions)]
        shape = (directions,)
    differentiate = _affine if affine else richardson
    derivatives = [differentiate(tested, {name: v}) for v in vs]
    expected = np.array([np.sum(tested.dy * d) for d, _ in derivatives], x.dtype).reshape(shape)
    error = np.array([np.sum(np.abs(tested.dy) * e) for _, e in derivatives], x.dtype).reshape(shape)
    terms = np.array([np.sum(np.abs(tested.dy * d)) for d, _ in derivatives], x.dtype).reshape(shape)
    if directions is not None:
        g = tested.gradients[name][0]
        terms = terms + np.array([np.sum(np.abs(g * v)) for v in vs])
    scale = np.max(terms, initial=0.0)
    if scale and not np.max(error, initial=0.0) <= 1e-5 * scale:
        raise CannotJudge(f"differences do not settle to better than {np.max(error):.0e}; try complex-step")

    def measure(g: Array) -> Array:
        return g if directions is None else np.array([np.sum(g * v) for v in vs])

    return compare(name, tested.gradients[name], expected, 10.0 * error + rtol * scale, scale, measure)


def _unit_vectors(x: Array) -> list[Array]:
    units = np.zeros((x.size, x.size), x.dtype)
    np.fill_diagonal(units, 1.0)
    return [unit.reshape(x.shape) for unit in units]


def richardson(tested: OpUnderTest, direction: Mapping[str, Array]) -> tuple[Array, Array]:
    """J v and an estimate of its error, element by element."""
    dtype = tested.dy.dtype
    largest_step = _power_of_two(tested, direction) / 8.0
    best, best_error = np.full(tested.y.shape, np.nan, dtype), np.full(tested.y.shape, np.inf, dtype)
    above: list[Array] = []
    with np.errstate(all="ignore"):  # a long step may leave the domain; its NaN is never the best entry
        for k in range(STEPS):
            difference, rounding = _central(tested, direction, largest_step / 2.0**k)
            row = [difference]
            for m in range(1, min(k, ORDERS) + 1):
                row.append(row[m - 1] + (row[m - 1] - above[m - 1]) / (4.0**m - 1.0))
                error = np.maximum(np.abs(row[m] - row[m - 1]), np.abs(row[m] - above[m - 1])) + rounding
                better = error < best_error
                best, best_error = np.where(better, row[m], best), np.where(better, error, best_error)
            above = row
            if np.all(best_error <= 2.0 * rounding):
                break  # a shorter step would only round worse
    return best, _doubt_kinks(tested, direction, best, best_error)


def _doubt_kinks(tested: OpUnderTest, direction: Mapping[str, Array], best: Array, error: Array) -> Array:
    """The estimate of the error, raised where a very short step disagrees: a kink in between deceives the estimate."""
    short, short_error = short_step(tested, direction)
    apart = np.abs(best - short)
    return np.where(apart > 1e-3 * np.abs(short) + 100.0 * short_error, apart, error)


def short_step(tested: OpUnderTest, direction: Mapping[str, Array]) -> tuple[Array, Array]:
    """J v by one central difference with a step of 1e-8, and its rounding error. Coarse, but hard to deceive."""
    return _central(tested, direction, _power_of_two(tested, direction) * 2.0**-26)


def _central(tested: OpUnderTest, direction: Mapping[str, Array], h: float) -> tuple[Array, float]:
    """(f(x + h v) - f(x - h v)) / 2h, and the error that the rounding of f may cause."""
    plus, minus = _at(tested, direction, h), _at(tested, direction, -h)
    rounding = float(4.0 * np.finfo(tested.dy.dtype).eps * np.max(np.abs(plus), initial=0.0) / h)
    return (plus - minus) / (2.0 * h), rounding


def _affine(tested: OpUnderTest, direction: Mapping[str, Array]) -> tuple[Array, Array]:
    """J v by one long step, and a tenth of the error that the rounding of f may cause."""
    h = _power_of_two(tested, direction)
    plus, middle, minus = _at(tested, direction, h), tested.y, _at(tested, direction, -h)
    size = np.max(np.abs(plus) + 2.0 * np.abs(middle) + np.abs(minus), initial=0.0)
    if not np.all(np.abs(plus - 2.0 * middle + minus) <= 1e-12 * size):
        raise CannotJudge("y is not affine in this input: leave affine out")
    rounding = 0.1 * np.finfo(tested.dy.dtype).eps * size / h
    return (plus - minus) / (2.0 * h), np.full(middle.shape, rounding)


def _at(tested: OpUnderTest, direction: Mapping[str, Array], t: float) -> Array:
    return tested.value({name: tested.inputs[name] + t * v for name, v in direction.items()})


def _power_of_two(tested: OpUnderTest, direction: Mapping[str, Array]) -> float:
    """A power of two near the largest element of what is moved, so that x + h v keeps all digits. 1 for zeros."""
    size = max(float(np.max(np.abs(tested.inputs[name]), initial=0.0)) for name in direction)
    return 2.0 ** round(np.log2(size)) if 0.0 < size < np.inf else 1.0
