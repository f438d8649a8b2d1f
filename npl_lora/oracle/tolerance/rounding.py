"""Arrays that carry a bound on the rounding error of any right implementation.

How far may a right answer in float16 be from the exact one? Run the ops themselves on arrays that hold for each number

    value       the number, in float64
    size        the same expression, with the absolute value of every term
    error       a bound on |what a right implementation gets - value|
    variance    the variance of that difference, if every rounding is an independent draw

The ops take their functions from their arrays, so no mathematics of LoRA is repeated here. This file knows only how
each elementary operation passes errors on, and how much it adds. To first order, with u the unit roundoff of stored
values (half of the dtype's eps), v that of sums, Q the sum of the squares of a sum's terms, and P = Q + value^2 / 9:

                error                                            variance
    sum_K a_k   sum of the errors                + (K v + u) size  sum of variances      + K v^2 P + u^2 (Q + value^2)/3
    a b         error_a size_b + size_a error_b  + u size          b^2 var_a + a^2 var_b + (u value)^2 / 3
    f(a)        |f'| error_a                     + 4u |f(a)|       f'^2 var_a            + (4u f(a))^2 / 3
    a / b       (error_a + size error_b) / |b|   + u size          (var_a + value^2 var_b) / b^2 + (u value)^2 / 3
    c a         |c| error_a                      + 2u size         c^2 var_a             + 2 (u c a)^2 / 3

A constant c pays for its own rounding, even where it is a number of the dtype: another form of the formula may need one
that is not. Every store also adds the least subnormal number. Another order of association may round the terms before
they cancel (when W + s B A is stored, for example), so a sum pays for a rounding of each term. Elementary functions are
assumed to be right to 2 units in the last place.

Why P: the k-th partial sum S_k is rounded by at most v |S_k|, with variance (v S_k)^2 / 3 if all such
errors are equally likely. Where the terms come in a random order, S_k is k/K of the value, with a variance below
k Q / K. So E S_k^2 <= (k value / K)^2 + k Q / K, and the K of them add up to about K (value^2 / 3 + Q / 2). Q alone
would do for terms of mixed signs: where all have one sign, value^2 is K Q.

`error` is the classical componentwise bound (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, sections
3.1 and 3.5), with `size` where the textbook's running bound has |value|. So it holds for every order of summation and
association, x (W + s B A)^T included. It is sharp through one or two products. Through a whole attention block it
multiplies worst cases that never meet, and in float32 it would allow an error of a hundred per cent.

`variance` describes what happens in practice: errors grow like the square root of the number of roundings (Higham and
Mary, "A New Approach to Probabilistic Rounding Error Analysis", 2019). A right answer is allowed
`Precision.deviations` = 12 standard deviations. A check looks at some 10^4 numbers, and the worst of so many lies at 4.
The other factor of 3 covers other orders of association, and roundings that are not independent: alpha / sqrt(r) is
rounded once and moves every term of a sum the same way.

The bound is the smaller of `Precision.margin` * error and `deviations` * sqrt(variance). How often a number is stored
depends on the order of association. With s B A = (sqrt(s) B)(sqrt(s) A), both roots rounded and both products stored,
the low-rank term is rounded 8 times; the op rounds it 6 times. No order that the protocol admits, as far as we know,
needs twice as many, so margin = 2 covers them.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...lora.low_rank import amplification

_HOPELESS = 1e150  # a worst case beyond this says nothing. Its square stays finite, because 0 times infinity is NaN


@dataclass(frozen=True)
class Precision:
    """The arithmetic that a right implementation may use for a case: see "Right" in the protocol.

    store: the unit roundoff of stored values. tiny: the most that a stored value loses to underflow.
    accumulate: the unit roundoff of sums. It is float32's or finer; for half precision it is twice float32's, because
    the accumulators of matrix units truncate.
    factors and factors_tiny: the same two for the sides of a matrix product, if the user allows them to be rounded.
    truncated: the sides are truncated toward zero, which may take twice the unit roundoff; factors has that.
    inputs: the unit roundoff of the inputs, if the user allows them to be cast to a narrower dtype first.
    """

    store: float
    tiny: float
    accumulate: float
    factors: float = 0.0
    factors_tiny: float = 0.0
    truncated: bool = False
    inputs: float = 0.0
    margin: float = 2.0
    deviations: float = 12.0


PRECISIONS = {
    "float64": Precision(2.0**-53, 2.0**-1074, 2.0**-53),
    "float32": Precision(2.0**-24, 2.0**-150, 2.0**-24),
    "float16": Precision(2.0**-11, 2.0**-25, 2.0**-23),
    "bfloat16": Precision(2.0**-8, 2.0**-134, 2.0**-23),
}


# Coarser formats that the user may allow: unit roundoff, and what underflow takes. Everything may be computed in fp32.
# In the others, only the sides of matrix products may be rounded, to nearest or, in tf32-truncated, toward zero.
INNER = {
    "tf32": (2.0**-11, 2.0**-137),
    "tf32-truncated": (2.0**-11, 2.0**-137),
    "bf16": (2.0**-8, 2.0**-134),
    "fp16": (2.0**-11, 2.0**-25),
    "fp32": (2.0**-24, 2.0**-150),
}


def precision_of(dtype: str, inner: str | None = None) -> Precision:
    """The arithmetic of a case's dtype, with the inner format where that is coarser.

    A kernel that casts float64 down computes all of a float64 case as it would a float32 case, after the inputs have
    been rounded. So "fp32" gives float32's own arithmetic, and each input x an error of u |x| with variance
    (u x)^2 / 3, u = 2^-24. Truncation takes up to 2u, and matrix units that truncate their inputs also truncate
    in their accumulators (see `truncation`).
    """
    precision = PRECISIONS[dtype]
    if inner is None or INNER[inner][0] <= precision.store:
        return precision
    u, tiny = INNER[inner]
    if inner == "fp32":
        return replace(PRECISIONS["float32"], inputs=u)
    if inner == "tf32-truncated":
        accumulate = max(precision.accumulate, 2.0**-23)
        return replace(precision, accumulate=accumulate, factors=2.0 * u, factors_tiny=2.0 * tiny, truncated=True)
    return replace(precision, factors=u, factors_tiny=tiny)


def round_to(t: Any, precision: Precision) -> Any:
    """The nearest number whose significand has unit roundoff `store`, ties to even; subnormals are as far apart as the
    smallest ones."""
    _, exponent = np.frexp(t)
    quantum = np.maximum(np.ldexp(precision.store, exponent), 2.0 * precision.tiny)
    return np.rint(t / quantum) * quantum


def round_factor(t: Any, precision: Precision) -> Any:
    """A side of a matrix product, rounded or truncated as the precision allows."""
    u, tiny = precision.factors, precision.factors_tiny
    if not u:
        return t
    if not precision.truncated:
        return round_to(t, replace(precision, store=u, tiny=tiny))
    _, exponent = np.frexp(t)
    quantum = np.maximum(np.ldexp(u / 2.0, exponent), tiny)
    return np.trunc(t / quantum) * quantum


class Rounded:
    """One array with its rounding errors. Integers and booleans are exact: their size, error and variance are None."""

    __array_priority__ = 1000.0

    def __init__(
        self, xp: "RoundingNamespace", value: Any, size: Any = None, error: Any = None, var: Any = None
    ) -> None:
        self.xp = xp
        self.value = np.asarray(value)
        self.size = size
        self.error = error
        self.var = var

    def __array_namespace__(self, api_version: str | None = None) -> "RoundingNamespace":
        return self.xp

    @property
    def moved(self) -> Any:
        """How far this may have been moved one way, beyond the errors above: see `truncation`."""
        return 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def ndim(self) -> int:
        return self.value.ndim

    @property
    def dtype(self) -> Any:
        return self.value.dtype

    @property
    def T(self) -> "Rounded":
        return self.xp._each(np.transpose, self)

    @property
    def mT(self) -> "Rounded":
        return self.xp._each(np.matrix_transpose, self)

    def __getitem__(self, key: Any) -> "Rounded":
        return self.xp._each(lambda t: t[key], self)

    def __int__(self) -> int:
        return int(self.value)

    def _exact(self, value: Any) -> "Rounded":
        return type(self)(self.xp, value)

    def __eq__(self, other: object) -> "Rounded":  # type: ignore[override]
        return self._exact(self.value == _value(other))

    def __ne__(self, other: object) -> "Rounded":  # type: ignore[override]
        return self._exact(self.value != _value(other))

    def __lt__(self, other: Any) -> "Rounded":
        return self._exact(self.value < _value(other))

    def __le__(self, other: Any) -> "Rounded":
        return self._exact(self.value <= _value(other))

    def __gt__(self, other: Any) -> "Rounded":
        return self._exact(self.value > _value(other))

    def __ge__(self, other: Any) -> "Rounded":
        return self._exact(self.value >= _value(other))

    def __and__(self, other: Any) -> "Rounded":
        return self._exact(self.value & _value(other))

    def __neg__(self) -> "Rounded":
        return type(self)(self.xp, -self.value, self.size, self.error, self.var)

    def __add__(self, other: Any) -> "Rounded":
        if self.size is None:
            return self._exact(self.value + _value(other))
        b = self.xp._lift(other)
        squares = self.value**2 + b.value**2
        return self.xp._stored(
            self.value + b.value, self.size + b.size, self.error + b.error, self.var + b.var, squares
        )

    def __sub__(self, other: Any) -> "Rounded":
        return self + (-other)

    def __rsub__(self, other: Any) -> "Rounded":
        return -self + other

    def __mul__(self, other: Any) -> "Rounded":
        b = self.xp._lift(other)
        error = self.size * b.error + self.error * b.size + self.error * b.error
        var = self.value**2 * b.var + self.var * b.value**2 + self.var * b.var
        return self.xp._stored(self.value * b.value, self.size * b.size, error, var)

    def __truediv__(self, other: Any) -> "Rounded":
        b = self.xp._lift(other)
        value, size, divisor = self.value / b.value, self.size / np.abs(b.value), np.abs(b.value)
        error = (self.error + size * b.error) / np.where(b.error < divisor, divisor - b.error, _HOPELESS**-1)
        var = (self.var + value**2 * b.var) / divisor**2
        return self.xp._stored(value, size, error, var)

    def __rtruediv__(self, other: Any) -> "Rounded":
        return self.xp._lift(other) / self

    def __rpow__(self, base: float) -> "Rounded":
        value, log_base = base**self.value, abs(math.log(base))
        return self.xp._function(value, value * np.expm1(log_base * self.error), (value * log_base) ** 2 * self.var)

    def __matmul__(self, other: "Rounded") -> "Rounded":
        a, b, K = self.xp._as_factor(self), self.xp._as_factor(other), self.shape[-1]
        size = a.size @ b.size
        error = _product(a.size, b.error) + _product(a.error, b.size) + _product(a.error, b.error)
        error = error + self.xp._sum_error(K, size)
        a2, b2 = a.value**2, b.value**2
        squares = a2 @ b2
        value, var = a.value @ b.value, _product(a2, b.var) + _product(a.var, b2) + _product(a.var, b.var)
        return self.xp._stored(value, size, error, var + self.xp._sum_variance(K, squares, value), squares)

    __radd__ = __add__
    __rmul__ = __mul__


def _product(a: Any, b: Any) -> Any:
    """a @ b, without work where an input is exact."""
    return a @ b if np.any(a) and np.any(b) else 0.0


def _value(other: Any) -> Any:
    return other.value if isinstance(other, Rounded) else other


class RoundingNamespace:
    """The functions of the array API that the ops use, on Rounded arrays of one precision."""

    __name__ = "rounding"
    array_type: type[Rounded] = Rounded
    float32, float64, int64, bool = np.float32, np.float64, np.int64, np.bool_
    isdtype, finfo, pi = staticmethod(np.isdtype), staticmethod(np.finfo), math.pi

    def __init__(self, precision: Precision) -> None:
        self.precision = precision

    # Making arrays

    def input(self, array: np.ndarray) -> Rounded:
        """An input of the case. Both sides have it exactly, unless the precision says that it may be rounded first."""
        x, u = self.exact(array), self.precision.inputs
        if not u or x.size is None:
            return x
        tiny = self.precision.tiny * (x.size > 0)
        return self.array_type(self, x.value, x.size, u * x.size + tiny, (u * x.size) ** 2 / 3.0 + tiny**2)

    def exact(self, array: np.ndarray) -> Rounded:
        """Numbers without an error."""
        if array.dtype.kind in "biu":
            return self.array_type(self, array)
        value = array.astype(np.float64)
        return self.array_type(self, value, np.abs(value), np.zeros(value.shape), np.zeros(value.shape))

    def _lift(self, other: Any) -> Rounded:
        """A constant of the formula is rounded where it is stored."""
        if isinstance(other, Rounded):
            return other
        size, u = np.abs(np.float64(other)), self.precision.store
        return self.array_type(self, np.float64(other), size, u * size, (u * size) ** 2 / 3.0)

    def arange(self, *span: int, dtype: Any = np.int64) -> Rounded:
        return self.exact(np.arange(*span, dtype=dtype))

    def zeros(self, shape: tuple[int, ...]) -> Rounded:
        return self.exact(np.zeros(shape))

    def zeros_like(self, x: Rounded) -> Rounded:
        return self.exact(np.zeros_like(x.value))

    def ones_like(self, x: Rounded) -> Rounded:
        return self.exact(np.ones_like(x.value))

    def full_like(self, x: Rounded, fill: float) -> Rounded:
        return self.exact(np.full_like(x.value, fill))

    def astype(self, x: Rounded, dtype: Any) -> Rounded:
        """Only booleans and integers change kind; how numbers are stored is the precision's to say."""
        return x if x.size is not None else self.exact(x.value.astype(dtype))

    # Moving numbers about: a value and its errors go together

    def _each(self, move: Any, *arrays: Rounded) -> Rounded:
        if arrays[0].size is None:
            return self.array_type(self, move(*(a.value for a in arrays)))
        parts = ("value", "size", "error", "var")
        return self.array_type(self, *(move(*(getattr(a, part) for a in arrays)) for part in parts))

    def reshape(self, x: Rounded, shape: tuple[int, ...]) -> Rounded:
        return self._each(lambda t: np.reshape(t, shape), x)

    def permute_dims(self, x: Rounded, axes: tuple[int, ...]) -> Rounded:
        return self._each(lambda t: np.permute_dims(t, axes), x)

    def expand_dims(self, x: Rounded, axis: int) -> Rounded:
        return self._each(lambda t: np.expand_dims(t, axis), x)

    def broadcast_to(self, x: Rounded, shape: tuple[int, ...]) -> Rounded:
        return self._each(lambda t: np.broadcast_to(t, shape), x)

    def asarray(self, numbers: list[int], dtype: Any = None) -> Rounded:
        return self.exact(np.asarray(numbers, dtype=dtype))

    def take(self, x: Rounded, indices: Rounded, axis: int) -> Rounded:
        return self._each(lambda t: np.take(t, indices.value, axis=axis), x)

    def concat(self, arrays: tuple[Rounded, ...], axis: int) -> Rounded:
        return self._each(lambda *t: np.concat(t, axis=axis), *arrays)

    def stack(self, arrays: tuple[Rounded, ...], axis: int = 0) -> Rounded:
        return self._each(lambda *t: np.stack(t, axis=axis), *arrays)

    def where(self, condition: Rounded, a: Rounded, b: Rounded) -> Rounded:
        return self._each(lambda s, t: np.where(condition.value, s, t), a, b)

    # Looking at numbers

    def max(self, x: Rounded, axis: int | None = None, keepdims: Any = False) -> Rounded:
        """Exact: softmax and cross-entropy subtract it, and subtracting any other number changes nothing."""
        return self.exact(np.max(x.value, axis=axis, keepdims=keepdims))

    def min(self, x: Rounded) -> Rounded:
        return self.exact(np.min(x.value))

    def isfinite(self, x: Rounded) -> Rounded:
        return self.array_type(self, np.isfinite(x.value))

    # Arithmetic

    def _stored(self, value: Any, size: Any, error: Any, var: Any, squares: Any = 0.0) -> Rounded:
        """A result rounded where it is stored. squares: of the terms, for a sum."""
        u, tiny = self.precision.store, self.precision.tiny
        error = np.fmin(error + u * size + tiny, _HOPELESS)
        return self.array_type(self, value, size, error, var + u**2 * (np.square(value) + squares) / 3.0 + tiny**2)

    def _as_factor(self, x: Rounded) -> Rounded:
        """A side of a matrix product, rounded to what the matrix unit takes in."""
        u, tiny = self.precision.factors, self.precision.factors_tiny
        if not u:
            return x
        var = x.var + (u**2 * np.square(x.value)) / 3.0 + tiny**2
        return self.array_type(self, x.value, x.size, x.error + u * x.size + tiny, var)

    def _sum_error(self, terms: int, size: Any) -> Any:
        return terms * self.precision.accumulate * size

    def _sum_variance(self, terms: int, squares: Any, value: Any = 0.0) -> Any:
        """squares: the sum of the squares of the terms. value: their sum, which partial sums drift towards."""
        return terms * self.precision.accumulate**2 * (squares + np.square(value) / 9.0)

    def sum(self, x: Rounded, axis: int | None = None, keepdims: Any = False) -> Rounded:
        if x.size is None:
            return self.array_type(self, np.sum(x.value, axis=axis, keepdims=keepdims))
        parts = (x.value, x.size, x.error, x.var, x.value**2)
        value, size, error, var, squares = (np.sum(t, axis=axis, keepdims=keepdims) for t in parts)
        terms = x.value.size if axis is None else x.shape[axis]
        error, var = error + self._sum_error(terms, size), var + self._sum_variance(terms, squares, value)
        return self._stored(value, size, error, var, squares)

    def mean(self, x: Rounded, axis: int | None = None, keepdims: Any = False) -> Rounded:
        """The sum, divided by the number of terms."""
        return self.sum(x, axis=axis, keepdims=keepdims) / (x.value.size if axis is None else x.shape[axis])

    def _function(self, value: Any, error: Any, var: Any, absolute: float = 0.0) -> Rounded:
        """An elementary function's own rounding, 4u of its value or of 1: _stored adds the first u of the four."""
        own = 3.0 * self.precision.store * np.maximum(np.abs(value), absolute)
        return self._stored(value, np.abs(value), error + own, var + 5.0 * own**2 / 9.0)

    def exp(self, x: Rounded) -> Rounded:
        value = np.exp(x.value)
        error = value * np.expm1(np.minimum(x.error, 60.0))
        return self._function(value, error, value**2 * np.expm1(np.minimum(x.var, 60.0)))

    def log(self, x: Rounded) -> Rounded:
        error = -np.log1p(-np.minimum(x.error / x.value, 1.0 - 2.0**-50))
        return self._function(np.log(x.value), error, x.var / x.value**2)

    def sqrt(self, x: Rounded) -> Rounded:
        """|sqrt(a + e) - sqrt(a)| <= e / sqrt(a), and <= sqrt(e)."""
        value = np.sqrt(x.value)
        root = np.maximum(value, 1.0 / _HOPELESS)
        error = np.minimum(x.error / root, np.sqrt(x.error))
        return self._function(value, error, np.minimum(x.var / (4.0 * root**2), np.sqrt(x.var)))

    def cos(self, x: Rounded) -> Rounded:
        return self._function(np.cos(x.value), x.error, np.sin(x.value) ** 2 * x.var)

    def sin(self, x: Rounded) -> Rounded:
        return self._function(np.sin(x.value), x.error, np.cos(x.value) ** 2 * x.var)

    # Functions that right implementations compute as (1 + f) / 2: their error is relative to 1, not to the result

    def sigmoid(self, x: Rounded) -> Rounded:
        """The logistic function; its slope is at most 1/4."""
        e = np.exp(-np.abs(x.value))
        value = np.where(x.value >= 0, 1.0, e) / (1.0 + e)
        return self._function(value, x.error / 4.0, (e / (1.0 + e) ** 2) ** 2 * x.var, absolute=1.0)

    def normal_cdf(self, x: Rounded) -> Rounded:
        """Phi; its slope phi is at most 1 / sqrt(2 pi) < 0.4."""
        value = np.vectorize(lambda t: 0.5 * math.erfc(-t / math.sqrt(2.0)), otypes=[np.float64])(x.value)
        return self._function(value, 0.4 * x.error, _normal_pdf(x.value) ** 2 * x.var, absolute=1.0)

    def normal_pdf(self, x: Rounded) -> Rounded:
        """phi; its slope -x phi is at most 1 / sqrt(2 pi e) < 0.25."""
        value = _normal_pdf(x.value)
        return self._function(value, 0.25 * x.error, (x.value * value) ** 2 * x.var, absolute=1.0)

    # The one that is not taken number by number

    def low_rank(self, x: Rounded, rank: int) -> Rounded:
        """Best approximation of lower rank: the product of two stored factors, moved by whatever moved x.

        What a decomposition does is as if x had been another, within a bound of its norm. Its m + n reflections round
        every number, of x or, where the factors are decomposed apart, of the terms that x is the sum of (Higham 2002,
        theorem 19.4); its iteration stops when what is left is below `stop` (LAPACK's rule, xBDSQR's TOL). It is done
        in the precision of sums, for nobody has one in half. All that moves x is amplified, and may show in any entry:
        size, the norm of x.size, is the same for all.
        """
        U, S, Vt = np.linalg.svd(x.value, full_matrices=False)
        product = self._lift(U[:, :rank] * S[:rank]) @ self._lift(Vt[:rank])
        norm, reflections, v = np.linalg.norm(x.size), sum(x.shape), self.precision.accumulate
        stop = max(10.0, v**-0.125) * v * norm
        error = np.linalg.norm(x.error) + self._sum_error(reflections, norm) + stop
        var = np.max(x.var) + (self._sum_variance(reflections, norm**2) + stop**2 / 3.0) / x.value.size
        factor = amplification(S, rank)
        error, var = product.error + factor * error, product.var + factor**2 * var
        return self.array_type(
            self, product.value, np.full(x.shape, norm), np.fmin(error, _HOPELESS), np.fmin(var, _HOPELESS)
        )


def _normal_pdf(x: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
