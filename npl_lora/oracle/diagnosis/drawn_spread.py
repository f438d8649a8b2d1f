"""lora_init: which formula gives the spread that was found, in the same family or in the other; dead ranks.

A right formula is missed with a probability of at most 4 DELTA. The largest of n numbers from U(-c, c) is below q c
with probability q^n, so c is at most that number over DELTA^(1/n). For n normal numbers of standard deviation c, and
x = log(1 / DELTA), the mean square over c^2 is below 1 - 2 sqrt(x / n), or above 1 + 2 sqrt(x / n) + 2 x / n, each
with a probability of at most DELTA (Laurent and Massart, "Adaptive estimation of a quadratic functional by model
selection", 2000, lemma 1). The distribution function is compared as well.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..case import Case
from ..report import Claim, Observed
from ..tolerance.statistics import DELTA, Distribution
from .words import listed

_Formula = Callable[[float, float, float, float], float]  # of in, out, r and alpha

_UNIFORM: Mapping[str, _Formula] = {
    "sqrt(6 / in), Kaiming's with a = 0 in the place of sqrt(5)": lambda n, m, r, a: (6.0 / n) ** 0.5,
    "sqrt(3 / in), Kaiming's with a = 1 in the place of sqrt(5)": lambda n, m, r, a: (3.0 / n) ** 0.5,
    "sqrt(6 / (in + r)), Xavier's": lambda n, m, r, a: (6.0 / (n + r)) ** 0.5,
    "1 / in, without the root": lambda n, m, r, a: 1.0 / n,
    "1 / sqrt(out), with in and out swapped": lambda n, m, r, a: m**-0.5,
    "1 / r": lambda n, m, r, a: 1.0 / r,
    "1 / sqrt(r)": lambda n, m, r, a: r**-0.5,
    "1": lambda n, m, r, a: 1.0,
    "0.02": lambda n, m, r, a: 0.02,
}
_NORMAL: Mapping[str, _Formula] = {
    "1": lambda n, m, r, a: 1.0,
    "1 / r^2": lambda n, m, r, a: 1.0 / r**2,
    "1 / alpha": lambda n, m, r, a: 1.0 / a,
    "1 / sqrt(in)": lambda n, m, r, a: n**-0.5,
    "1 / sqrt(3 in)": lambda n, m, r, a: (3.0 * n) ** -0.5,
    "sqrt(2 / in), Kaiming's": lambda n, m, r, a: (2.0 / n) ** 0.5,
    "0.02": lambda n, m, r, a: 0.02,
}


def other_spreads(failing: Sequence[Observed]) -> list[Claim]:
    """What A, or B, is drawn from instead, where a formula fits all failing cases of a distribution."""
    claims: dict[tuple[str, str], list[set[str]]] = {}
    for one in failing:
        for name in one.failed:
            right, got = one.right.get(name), (one.outputs or {}).get(name)
            if (
                isinstance(right, Distribution)
                and got is not None
                and got.shape == right.shape
                and got.dtype.kind == "f"
            ):
                key = name, str(one.case.config["distribution"])
                claims.setdefault(key, []).append(_names(right, got.astype(np.float64), one.case))
    told = []
    for (name, distribution), names in claims.items():
        common = set.intersection(*names)
        if common:
            which = " or ".join(sorted(common))
            says = f"{name} with distribution = {distribution}: its numbers are distributed as {which}."
            told.append(Claim((), (name,), says))
    return told


def dead_ranks(failing: Sequence[Observed]) -> list[Claim]:
    """The ranks in which both factors are zero: dA is a multiple of B there, and dB of A."""
    dead = [_dead(one) for one in failing if {"A", "B"} <= (one.outputs or {}).keys()]
    ranks = sorted(set().union(*dead))
    if not ranks or not all(dead):
        return []
    which = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {listed([str(rank) for rank in ranks])}"
    return [Claim((), ("A", "B"), f"A and B are both zero at {which}, so neither ever gets a gradient there.")]


def _dead(one: Observed) -> set[int]:
    A, B = (np.asarray((one.outputs or {})[name]) for name in ("A", "B"))
    if A.ndim != 2 or B.ndim != 2 or len(A) != B.shape[1] or not (np.any(A) or np.any(B)):
        return set()
    return set(np.flatnonzero(~np.any(A, axis=1) & ~np.any(B, axis=0)).tolist())


def _names(right: Distribution, got: np.ndarray, case: Case) -> set[str]:
    """The formulas that these numbers may be drawn from; none where the right one is among them."""
    largest = float(np.max(np.abs(got), initial=0.0))
    if not 0.0 < largest < math.inf or _fits(right, got):
        return set()
    out, in_ = case["W"].shape if case.config["layer"] == "linear" else case["W"].shape[::-1]
    sizes = in_, out, case.config["r"], case.config["alpha"]
    n, log, square = got.size, -math.log(DELTA), float(np.mean(np.square(got)))
    off, low, high = 2.0 * math.sqrt(log / n), largest * (1.0 - 2.0 * right.u), largest * math.exp(log / n)
    found = set[str]()
    for says, formula in _UNIFORM.items():
        c = formula(*sizes)
        if low <= c <= high * (1.0 + 2.0 * right.u) and _fits(replace(right, kind="uniform", spread=c), got):
            found.add(f"U(-c, c) with c = {says}")
    for says, formula in _NORMAL.items():
        c = formula(*sizes)
        near = 1.0 - off <= square / c**2 <= 1.0 + off + 2.0 * log / n
        if near and _fits(replace(right, kind="normal", spread=c), got):
            found.add(f"N(0, c^2) with c = {says}")
    return found


def _fits(distribution: Distribution, got: np.ndarray) -> bool:
    distance, allowed = distribution.distance(got)
    return distance <= allowed
