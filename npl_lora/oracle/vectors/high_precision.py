"""Right answers that are correctly rounded: the ops on arrays of mpmath's numbers, which have as many digits as asked.

The ops take their functions from their arrays and the contracts their parts from a Definition, so nothing of LoRA's
mathematics is repeated here. What an op or a contract has as a constant must have the digits, too: alpha / r and its
root (`scale`), 1 / n, 1 / sqrt(D), -2i / D and 0.044715 (`ops._namespace.quotient`), pi (the namespace's), and the
numbers of the configuration, which are exact but whose products need not be.

How many digits are enough is not known beforehand, so they are doubled until it shows (Ziv, "Fast evaluation of
elementary mathematical functions with correctly rounded last bit", 1991). With v computed in p bits and w in 2p, the
error of w is far smaller than |v - w|, which is the error of v. If all of [w - |v - w|, w + |v - w|] rounds to one
float64, that is the right answer, correctly rounded; else p is doubled. An answer that is exactly representable but is
computed inexactly, as (W + s B A) - s B A is, is inside the interval; one that is exactly 0 is found when the interval
is within half of the least subnormal number.
"""

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from ...support.array import Array
from ...support.extras import require
from ..definition import RIGHT, AnswerFunction, Definition, scale
from ..tolerance.statistics import Distribution

FIRST_BITS, LAST_BITS = 128, 4096


class UncertainError(ArithmeticError):
    """No number of digits that was tried says how an answer rounds."""


def correctly_rounded(
    answer: AnswerFunction, arrays: Mapping[str, np.ndarray], config: dict[str, Any]
) -> dict[str, np.ndarray | Distribution]:
    """answer(arrays, config, definition), every number of it the float64 nearest to the exact one, ties to even.

    Raises UncertainError where LAST_BITS do not settle it, and MissingExtraError without mpmath.
    """
    bits, coarse = FIRST_BITS, _evaluate(answer, arrays, config, FIRST_BITS)
    while bits < LAST_BITS:
        fine = _evaluate(answer, arrays, config, 2 * bits)
        rounded = {name: _settled(coarse[name], fine[name]) for name in fine}
        if all(output is not None for output in rounded.values()):
            return {name: output for name, output in rounded.items() if output is not None}
        bits, coarse = 2 * bits, fine
    open_ones = ", ".join(name for name, output in rounded.items() if output is None)
    raise UncertainError(f"{open_ones}: {LAST_BITS} bits do not say how it rounds")


def _evaluate(
    answer: AnswerFunction, arrays: Mapping[str, np.ndarray], config: dict[str, Any], bits: int
) -> dict[str, Any]:
    xp = HighPrecisionNamespace(bits)
    exact = {name: xp.exact(array) for name, array in arrays.items()}
    return answer(exact, {name: xp.setting(value) for name, value in config.items()}, xp.definition())


def _settled(coarse: Any, fine: Any) -> np.ndarray | Distribution | None:
    if isinstance(fine, Distribution):
        return fine
    rounded = [_nearest(v, w) for v, w in zip(coarse.flat, fine.flat, strict=True)]
    return None if None in rounded else np.array(rounded, dtype=np.float64).reshape(fine.shape)


def _nearest(v: Any, w: Any) -> float | None:
    """The float64 that everything within |v - w| of w rounds to, if it is one."""
    v, w = _fraction(v), _fraction(w)
    low, high = float(w - abs(v - w)), float(w + abs(v - w))  # float() of a fraction rounds correctly
    return high + 0.0 if low == high else None


def _fraction(number: Any) -> Fraction:
    if isinstance(number, (int, float)):
        return Fraction(number)
    mantissa, exponent = number.man_exp  # without the sign
    return Fraction(int(mantissa) if number > 0 else -int(mantissa)) * Fraction(2) ** exponent


class HighPrecisionArray(np.ndarray):
    """An object array of mpmath's numbers (or an array of integers or booleans), and the namespace that made it."""

    xp: "HighPrecisionNamespace"

    def __array_finalize__(self, made_from: Any) -> None:
        if isinstance(made_from, HighPrecisionArray):
            self.xp = made_from.xp

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return self.xp


class HighPrecisionNamespace:
    """NumPy's functions on arrays of numbers with this many bits. Those that must know what a number is are here."""

    __name__ = "high_precision"
    float32, float64, complex64, int64, bool = np.float32, np.float64, np.complex64, np.int64, np.bool_
    isdtype = staticmethod(np.isdtype)

    def __init__(self, bits: int) -> None:
        mpmath = require("mpmath", "vectors", "correct rounding")
        self._mp = mpmath.MPContext()
        self._mp.prec = bits
        self.pi = +self._mp.pi
        self.exp, self.log, self.sqrt = self._each(self._mp.exp), self._each(self._mp.log), self._each(self._mp.sqrt)
        self.cos, self.sin = self._each(self._mp.cos), self._each(self._mp.sin)
        self.normal_cdf = self._each(lambda x: self._mp.erfc(-x / self._mp.sqrt(2)) / 2)
        self.normal_pdf = self._each(lambda x: self._mp.exp(-x * x / 2) / self._mp.sqrt(2 * self._mp.pi))
        self.sigmoid = self._each(lambda x: 1 / (1 + self._mp.exp(-x)))

    def __getattr__(self, name: str) -> Callable[..., HighPrecisionArray]:
        function = getattr(np, name)
        return lambda *args, **how: self._own(function(*args, **how))

    def _own(self, array: Any) -> HighPrecisionArray:
        own = np.asarray(array).view(HighPrecisionArray)
        own.xp = self
        return own

    def _each(self, function: Callable[[Any], Any]) -> Callable[[Array], HighPrecisionArray]:
        by_number = np.frompyfunc(function, 1, 1)
        return lambda x: self._own(by_number(x))

    # Making numbers

    def exact(self, array: Any) -> HighPrecisionArray:
        """An array with the same numbers."""
        array = np.asarray(array)
        if array.dtype.kind in "biu":
            return self._own(array)
        numbers = [self._mp.mpf(float(number)) for number in array.flat]
        return self._own(np.array([*numbers, None], dtype=object)[:-1].reshape(array.shape))

    def number(self, value: float) -> HighPrecisionArray:
        """One number, as an array of no dimension."""
        return self._own(np.array(self._mp.mpf(value), dtype=object))

    def isfinite(self, x: HighPrecisionArray) -> HighPrecisionArray:
        return self._own(np.array([math.isfinite(number) for number in x.flat], dtype=bool).reshape(x.shape))

    def quotient(self, p: int, q: int) -> Any:
        return self._mp.mpf(p) / q

    def arange(self, *span: int, dtype: Any = np.int64) -> HighPrecisionArray:
        return self.exact(np.arange(*span, dtype=dtype))

    def setting(self, value: Any) -> Any:
        """An entry of the configuration: what is not an integer by nature gets the digits."""
        if isinstance(value, list):
            return [self.setting(one) for one in value]
        return self.number(value) if isinstance(value, float) else value

    def definition(self) -> Definition:
        """The right one, with the scale in all its digits."""

        def exact_scale(config: dict[str, Any]) -> HighPrecisionArray:
            return scale({**config, **{name: self.number(config[name]) for name in ("r", "alpha")}}, self.sqrt)

        return RIGHT.wrapped(scale=lambda _: exact_scale)

    # The one that is not taken number by number

    def low_rank(self, x: HighPrecisionArray, rank: int) -> HighPrecisionArray:
        """Best approximation of lower rank, from mpmath's singular value decomposition."""
        U, S, Vt = self._mp.svd_r(self._mp.matrix(x.tolist()))
        U, Vt = (np.array(factor.tolist(), dtype=object) for factor in (U, Vt))
        return self._own((U[:, :rank] * np.array(list(S)[:rank], dtype=object)) @ Vt[:rank])
