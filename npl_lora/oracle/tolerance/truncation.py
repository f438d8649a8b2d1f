"""The bound of `rounding` where the sides of matrix products are truncated toward zero, not rounded to nearest.

A tensor core that reads float32 as TF32 may ignore the last 13 bits. Then a side a of a product becomes a (1 - d), and
d is in [0, t) with t = 2u: up to twice the error of rounding to nearest, and always toward zero. The worst case is as
`rounding` has it, with t in place of u. The standard deviations alone are not: they assume errors of mean 0, which
cancel in a sum of K terms like sqrt(K). The errors of truncation have a mean, and means add up like K.

So the error is taken apart. With D the mean of d over the terms of a sum, and e = d - D,

    sum_k a_k (1 - d_k) b_k  =  (1 - D) sum_k a_k b_k  -  sum_k e_k a_k b_k,      0 <= D < t

* The e_k have mean 0, and are independent of the signs of the terms: which bits are cut off says nothing about these.
  They are what the variance is for. E d^2 <= t^2 / 3 where the bits that are cut off are evenly spread, so t takes the
  place of u there too.
* The factor 1 - D is common to the whole sum. It cancels nowhere, but it moves the sum by at most t |value|, and not by
  t times the size: terms that cancel also cancel in what they are moved by.

Both sides are truncated, so a product is moved by at most 2t |value|. What is moved further on, to first order:

               drift                 bias
    a @ b      drift_a + drift_b     |a| @ bias_b + bias_a @ |b|
               + 2t
    a b        drift_a + drift_b     |a| bias_b + bias_a |b|
    a / b      drift_a + drift_b     (bias_a + |a / b| bias_b) / |b|
    sum a_k    drift_a               sum of the biases
    a + b      0                     moved_a + moved_b
    f(a)       0                     the larger of |f(a +- moved_a) - f(a)|

drift: a bound on |1 - c|, c the factor that all numbers of an array have in common. It survives sums and products.
bias: a bound, for each number, on what else moved it one way. moved = drift |value| + bias is the whole of it. Where
arrays of different drifts meet in a sum, nothing is common any more, and both go into the bias: there they add up by
their absolute values. In y = x W^T + s (x A^T) B^T the base path is moved by 2t of itself at most, the LoRA path by 4t.

A right answer may be off by 12 standard deviations and by `moved`, or by the worst case if that is less.
"""

from typing import Any

import numpy as np

from ...lora.low_rank import amplification
from .rounding import Precision, Rounded, RoundingNamespace


class Truncated(Rounded):
    """An array with its rounding errors, and how far truncation may have moved it one way."""

    xp: "TruncatingNamespace"
    drift: float = 0.0
    bias: Any = 0.0  # a number where it is the same everywhere

    @property
    def moved(self) -> Any:
        return self.drift * np.abs(self.value) + self.bias if self.drift else self.bias  # a masked score is -inf

    def with_moves(self, drift: float, bias: Any) -> "Truncated":
        """This array, just computed, with what moved it."""
        self.drift, self.bias = drift, bias
        return self

    def __neg__(self) -> "Truncated":
        return _truncated(super().__neg__()).with_moves(self.drift, self.bias)

    def __add__(self, other: Any) -> "Truncated":
        result = _truncated(super().__add__(other))
        if result.size is None:
            return result
        return result.with_moves(0.0, self.moved + _truncated(self.xp._lift(other)).moved)

    __radd__ = __add__

    def __mul__(self, other: Any) -> "Truncated":
        b = _truncated(self.xp._lift(other))
        bias = np.abs(self.value) * b.bias + self.bias * np.abs(b.value)
        return _truncated(super().__mul__(b)).with_moves(self.drift + b.drift, bias)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> "Truncated":
        b = _truncated(self.xp._lift(other))
        result = _truncated(super().__truediv__(b))
        bias = (self.bias + np.abs(result.value) * b.bias) / np.abs(b.value)
        return result.with_moves(self.drift + b.drift, bias)

    def __rpow__(self, base: float) -> "Truncated":
        return self.xp.moved_through(lambda t: base**t, self, super().__rpow__(base))

    def __matmul__(self, other: Rounded) -> "Truncated":
        b = _truncated(other)
        bias = np.abs(self.value) @ b.full_bias + self.full_bias @ np.abs(b.value)
        drift = self.drift + b.drift + 2.0 * self.xp.precision.factors
        return _truncated(super().__matmul__(b)).with_moves(drift, bias)

    @property
    def full_bias(self) -> np.ndarray:
        return np.broadcast_to(self.bias, self.value.shape)


def _truncated(array: Rounded) -> Truncated:
    assert isinstance(array, Truncated)  # all arrays of a TruncatingNamespace are
    return array


class TruncatingNamespace(RoundingNamespace):
    """The functions of the array API that the ops use, on Truncated arrays."""

    array_type = Truncated

    def _each(self, move: Any, *arrays: Rounded) -> Truncated:
        result, pieces = _truncated(super()._each(move, *arrays)), [_truncated(a) for a in arrays]
        if result.size is None:
            return result
        drifts = {piece.drift for piece in pieces}
        if len(drifts) == 1:
            return result.with_moves(drifts.pop(), move(*(piece.full_bias for piece in pieces)))
        return result.with_moves(0.0, move(*(np.broadcast_to(piece.moved, piece.shape) for piece in pieces)))

    def _as_factor(self, x: Rounded) -> Truncated:
        whole = _truncated(x)
        return _truncated(super()._as_factor(x)).with_moves(whole.drift, whole.bias)

    def sum(self, x: Rounded, axis: int | None = None, keepdims: Any = False) -> Truncated:
        result, terms = _truncated(super().sum(x, axis, keepdims)), _truncated(x)
        if result.size is None:
            return result
        return result.with_moves(terms.drift, np.sum(terms.full_bias, axis=axis, keepdims=keepdims))

    def moved_through(self, function: Any, x: Truncated, result: Rounded) -> Truncated:
        """result = function(x), number by number, moved by as much as the function changes when x is moved."""
        with np.errstate(invalid="ignore", divide="ignore"):
            changes = [np.abs(function(x.value + move) - result.value) for move in (x.moved, -x.moved)]
        return _truncated(result).with_moves(0.0, np.fmax(*changes))

    def _through(self, name: str, x: Rounded) -> Truncated:
        function = getattr(super(), name)
        return self.moved_through(lambda t: function(self.exact(t)).value, _truncated(x), function(x))

    def exp(self, x: Rounded) -> Truncated:
        return self._through("exp", x)

    def log(self, x: Rounded) -> Truncated:
        return self._through("log", x)

    def sqrt(self, x: Rounded) -> Truncated:
        return self._through("sqrt", x)

    def cos(self, x: Rounded) -> Truncated:
        return self._through("cos", x)

    def sin(self, x: Rounded) -> Truncated:
        return self._through("sin", x)

    def sigmoid(self, x: Rounded) -> Truncated:
        return self._through("sigmoid", x)

    def normal_cdf(self, x: Rounded) -> Truncated:
        return self._through("normal_cdf", x)

    def normal_pdf(self, x: Rounded) -> Truncated:
        return self._through("normal_pdf", x)

    def low_rank(self, x: Rounded, rank: int) -> Truncated:
        """Amplified as every other error of x is, and truncated again where the factors are multiplied."""
        result, whole = _truncated(super().low_rank(x, rank)), _truncated(x)
        S = np.linalg.svd(x.value, compute_uv=False)
        spread = amplification(S, rank) * np.linalg.norm(whole.moved)
        return result.with_moves(2.0 * self.precision.factors, np.full(x.shape, spread))


def namespace_of(precision: Precision) -> RoundingNamespace:
    """The namespace that derives what is allowed in this precision."""
    return TruncatingNamespace(precision) if precision.truncated else RoundingNamespace(precision)
