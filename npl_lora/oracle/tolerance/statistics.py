"""Judging what is drawn at random: a right answer is not one array but a distribution.

Every test here says "wrong" of a right answer with probability at most DELTA = 2^-52, whatever the sample's size: the
bounds are proven for every n, and not only for large ones. A whole check, all dtypes and both calls of a subject, makes
fewer than 2^12 of them, so that the chance of any false alarm in it is below 2^-40.

1. How the numbers are distributed. F_n is the share of the n numbers that are <= t, F what it should be. Then

       P(sup_t |F_n(t) - F(t)| > e) <= 2 exp(-2 n e^2)

   (Dvoretzky, Kiefer and Wolfowitz 1956; the constant is Massart's, "The tight constant in the
   Dvoretzky-Kiefer-Wolfowitz inequality", 1990). Rounding to the dtype is monotone and moves a number t by at most
   u |t|, and F by at most u times the largest t f(t): 1/2 for a uniform distribution, 0.25 for a normal one. A
   generator that draws in the dtype itself has a grid as coarse. 2u covers both. Each row and each column is a sample
   of its own: one of zeros among many hardly moves F_n. They share DELTA, so k of them have DELTA / k each.

2. Whether they are drawn independently. For v_1 ... v_n independent, each of mean 0 and within an interval of width w,

       P(|mean of v| > e) <= 2 exp(-2 n e^2 / w^2)

   (Hoeffding, "Probability inequalities for sums of bounded random variables", 1963, theorem 2). v is the product of
   two numbers that should have nothing to do with each other, each centred; pairs are taken that share no number:
   neighbours along an axis, and the halves of an axis.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...ops.namespace import normal_cdf

DELTA = 2.0**-52
_LINES = ("row", "column")


def tolerated(n: int, width: float = 1.0, tests: int = 1) -> float:
    """e such that the mean of n independent numbers, each in an interval of that width, is off by more with
    probability at most DELTA / tests. With width 1 also the e of sup |F_n - F|."""
    return width * math.sqrt(math.log(2.0 * tests / DELTA) / (2 * n)) if n else math.inf


def pairs(t: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(what they are, one half of the pairs, the other): pairs in t that share no number."""
    for axis in range(t.ndim):
        half = t.shape[axis] // 2
        moved = np.moveaxis(t, axis, 0)
        if half:
            yield f"neighbours along axis {axis}", moved[: 2 * half : 2], moved[1 : 2 * half : 2]
            yield f"the two halves of axis {axis}", moved[:half], moved[half : 2 * half]


def dependence(a: np.ndarray, b: np.ndarray, width: float) -> tuple[float, float]:
    """|mean of a b|, which independence makes small, and what it may be. width: of the interval that a b is in."""
    return abs(float(np.mean(a * b))), tolerated(a.size, width)


@dataclass(frozen=True)
class Distribution:
    """shape of independent numbers. u: the unit roundoff of the dtype that they are rounded to.

    kind: "uniform" in +-spread, "positive" for uniform from 0 to spread, "normal" with the standard deviation spread.
    """

    kind: str
    spread: float
    shape: tuple[int, ...]
    u: float

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A right answer, in float64."""
        if self.kind == "uniform":
            return rng.uniform(-self.spread, self.spread, self.shape)
        if self.kind == "positive":
            return rng.uniform(0.0, self.spread, self.shape)
        return self.spread * rng.standard_normal(self.shape)

    def cdf(self, t: np.ndarray) -> np.ndarray:
        z = t / self.spread
        if self.kind == "positive":
            return np.asarray(np.clip(z, 0.0, 1.0))
        return np.asarray(np.clip(0.5 + 0.5 * z, 0.0, 1.0) if self.kind == "uniform" else normal_cdf(z))

    def __str__(self) -> str:
        if self.kind == "positive":
            return f"U(0, {self.spread:.4g})"
        return f"U(-{self.spread:.4g}, {self.spread:.4g})" if self.kind == "uniform" else f"N(0, {self.spread:.4g}^2)"

    def distance(self, got: np.ndarray, tests: int = 1) -> tuple[float, float]:
        """sup |F_n - F|, and what it may be where so many samples are tested."""
        F, n = np.sort(self.cdf(got.ravel())), got.size
        above, below = np.arange(1, n + 1) / n - F, F - np.arange(n) / n
        return float(max(above.max(), below.max())), tolerated(n, tests=tests) + 2 * self.u

    def objection(self, got: np.ndarray) -> tuple[float, float, str]:
        """A statistic, what it may be, and what is wrong if it is more; "" when nothing is."""
        found, allowed = self.distance(got)
        if found > allowed:
            return found, allowed, self._other_spread(got)
        for axis, what in enumerate(_LINES[: got.ndim]):
            for i, line in enumerate(np.moveaxis(got, axis, 0)):
                off, bound = self.distance(line, got.shape[axis])
                if off > bound:
                    return off, bound, f"{what} {i} {self._other_spread(line)}"
        centred = self.cdf(got) - 0.5  # uniform in +-1/2, so products are in +-1/4
        for what, a, b in pairs(centred):
            off, bound = dependence(a, b, 0.5)
            if off > bound:
                return off, bound, f"{what} are not drawn independently"
        return found, allowed, ""

    def _other_spread(self, got: np.ndarray) -> str:
        if not np.any(got):
            return f"is zero, expected {self}"
        factor = float(np.sqrt(np.mean(np.square(got)))) / (
            self.spread / (math.sqrt(3) if self.kind == "uniform" else 1)
        )
        other = Distribution(self.kind, factor * self.spread, self.shape, self.u)
        distance, allowed = other.distance(got)
        if distance <= allowed:
            return f"has {factor:.4g} times the spread of {self}"
        return f"is not distributed as {self}"
