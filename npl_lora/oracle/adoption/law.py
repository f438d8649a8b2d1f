"""The scale s that a layer multiplies B A with, as a law of alpha and r, found by probing.

The layer's low-rank path is a matrix D. With A and B known, s = <D, A^T B^T> / |A^T B^T|^2, and what is left of D is
zero. The grid tells all laws apart that were seen in public layers, alpha // r included.

Of DoRA, with m = 1, a column of the layer's matrix is c (w + s d), for columns w of W^T and d of A^T B^T and some c of
its own: least squares give s and 1 / c.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

Grid = tuple[tuple[float, int], ...]
GRID: Grid = ((16.0, 4), (10.0, 4), (3.0, 2), (1.0, 4), (24.0, 6))  # (alpha, r)
CLOSE = 1e-4  # relative; the layer may compute in float32

PLAIN: Mapping[str, Callable[[float, int], float]] = {
    "{a} / r": lambda a, r: a / r,
    "{a}": lambda a, r: a,
    "{a} / sqrt(r)": lambda a, r: a / math.sqrt(r),
}
_WRONG: Mapping[str, Callable[[float, int], float]] = {
    "{a} // r": lambda a, r: a // r,
    "r / {a}": lambda a, r: r / a,
}
_OF_RANK: Mapping[str, Callable[[float, int], float]] = {
    "{k} / r": lambda a, r: 1 / r,
    "{k} / sqrt(r)": lambda a, r: 1 / math.sqrt(r),
    "{k} r": lambda a, r: float(r),
}


@dataclass(frozen=True)
class Law:
    """formula: s in words. kind: "right" is alpha / r; "convention" another law that is kept everywhere; "fault" is
    one that does not do what its parameter promises, with the formula "" where what is added is no multiple of B A
    at all. parameter: the name of alpha or of the scale; "" if there is none.
    slope: {r: s / alpha} of a law that is proportional to its parameter, or {r: s} of one without.
    """

    formula: str
    kind: str
    parameter: str = ""
    slope: Mapping[int, float] = field(default_factory=dict)

    def strength(self, s: float, rank: int) -> float:
        """What to hand over as alpha so that the scale is s, to the last bit where that is possible."""
        slope = self.slope[rank]
        first = s / slope
        near = (first, np.nextafter(first, math.inf), np.nextafter(first, -math.inf))
        return float(next((a for a in near if self._apply(float(a), rank) == s), first))

    @property
    def exact(self) -> bool:
        """Whether s can be a whole number to the last bit: not where a root or a factor is multiplied in."""
        return self.kind != "convention" or self.formula == self.parameter or not self.parameter

    def _apply(self, a: float, rank: int) -> float:
        law = next((law for form, law in PLAIN.items() if form.format(a=self.parameter) == self.formula), None)
        return law(a, rank) if law else self.slope[rank] * a


def low_rank_scale(added: np.ndarray, product: np.ndarray) -> tuple[float, float]:
    """s, and what share of D is left when s A^T B^T is taken away."""
    s = float(np.sum(added * product) / np.sum(product * product))
    size = float(np.linalg.norm(added))
    return s, float(np.linalg.norm(added - s * product)) / size if size else 0.0


def dora_scale(y: np.ndarray, W: np.ndarray, product: np.ndarray) -> tuple[float, float]:
    """The same for DoRA's matrix y (in, out) and W^T: s, and the largest share that is left of a column."""
    found, left = [], []
    for column, w, d in zip(y.T, W.T, product.T, strict=True):
        (inverse, minus_s), *_ = np.linalg.lstsq(np.stack((column, d), axis=1), w, rcond=None)
        found.append(-minus_s)
        left.append(float(np.linalg.norm(w - inverse * column - minus_s * d) / np.linalg.norm(w)))
    spread = float(np.ptp(found)) / max(float(np.max(np.abs(found))), 0.1)
    return float(np.mean(found)), max(*left, spread)


def find_law(measure: Callable[[float, int], float], parameter: str, ranks: tuple[int, ...], grid: Grid = GRID) -> Law:
    """The law of a layer. measure(alpha, r) -> s, or nan where what the layer adds is no multiple of B A.

    parameter: "" if the constructor takes neither alpha nor a scale. ranks: those that will be asked for. grid: where
    to measure.
    """
    if not parameter:
        return _without_parameter(measure, ranks)
    measured = [_or_nan(measure, a, r) for a, r in grid]
    if not all(map(math.isfinite, measured)) or _nothing(measured):
        return Law("", "fault", parameter)
    for form, law in PLAIN.items():
        if _fits(measured, grid, law):
            slope = {r: law(1.0, r) for r in ranks}
            kind = "right" if form == "{a} / r" else "convention"
            return Law(form.format(a=parameter), kind, parameter, slope)
    for form, law in _WRONG.items():
        if _fits(measured, grid, law):
            return Law(form.format(a=parameter), "fault", parameter)
    for form, law in PLAIN.items():
        k = _rounded(measured[0] / law(*grid[0]))
        if k > 0 and _fits(measured, grid, lambda a, r, k=k, law=law: k * law(a, r)):  # type: ignore[misc]
            slope = {r: k * law(1.0, r) for r in ranks}
            return Law(f"{k:.4g} {form.format(a=parameter)}", "convention", parameter, slope)
    if all(near(_or_nan(measure, 2 * a, r), 2 * s) for (a, r), s in zip(grid, measured, strict=True)):
        slope = {r: s / 8.0 for r, s in _measured(measure, ranks)}
        return Law(f"c(r) {parameter} with {_listed(slope)}", "convention", parameter, slope)
    if all(near(_or_nan(measure, 2 * a, r), s) for (a, r), s in zip(grid, measured, strict=True)):
        return Law(f"{measured[0]:.4g}, whatever {parameter} is", "fault", parameter)
    return Law(
        "; ".join(f"{s:.4g} at ({a:g}, {r})" for (a, r), s in zip(grid, measured, strict=True)), "fault", parameter
    )


def _without_parameter(measure: Callable[[float, int], float], ranks: tuple[int, ...]) -> Law:
    slope = dict(_measured(measure, ranks))
    lowest, first = next(iter(slope.items()), (1, math.nan))
    if not all(map(math.isfinite, slope.values())) or _nothing(slope.values()):
        return Law("", "fault", "", dict.fromkeys(ranks, 1.0))
    if all(near(s, first) for s in slope.values()):
        return Law(f"{first:.4g}", "convention", "", {r: _rounded(s) for r, s in slope.items()})
    for formula, law in _OF_RANK.items():
        k = _rounded(first / law(0.0, lowest))
        if all(near(s, k * law(0.0, r)) for r, s in slope.items()):
            said = formula.format(k=f"{k:.4g}") if k != 1.0 or "/" in formula else "r"
            return Law(said, "convention", "", {r: k * law(0.0, r) for r in ranks})
    return Law(f"c(r) with {_listed(slope)}", "convention", "", slope)


def _nothing(measured: Iterable[float]) -> bool:
    """Whether no low-rank path was there at all: that is no scale."""
    return all(abs(s) < 1e-12 for s in measured)


def _or_nan(measure: Callable[[float, int], float], alpha: float, rank: int) -> float:
    try:
        return measure(alpha, rank)
    except NotImplementedError:  # the layer takes no such rank
        return math.nan


def _measured(measure: Callable[[float, int], float], ranks: tuple[int, ...]) -> Iterator[tuple[int, float]]:
    """r and s, for every rank that the layer takes."""
    for r in ranks:
        try:
            yield r, measure(8.0, r)
        except NotImplementedError:
            continue


def _fits(measured: list[float], grid: Grid, law: Callable[[float, int], float]) -> bool:
    return all(near(s, law(a, r)) for s, (a, r) in zip(measured, grid, strict=True))


def near(s: float, expected: float) -> bool:
    """Whether a measured scale is the expected one."""
    return abs(s - expected) <= CLOSE * max(0.1, abs(expected))


def _rounded(s: float) -> float:
    """The short number that was meant: what was measured carries rounding."""
    short = float(f"{s:.4g}")
    return short if abs(short - s) <= 1e-12 * abs(s) else s


def _listed(slope: Mapping[int, float]) -> str:
    return ", ".join(f"{s:.4g} at r = {r}" for r, s in list(slope.items())[:4])
