"""One evaluation in low precision: an array type that computes as one implementation in that precision would.

    array_type = evaluated_type(precision, rng)
    y = answer({name: array.view(array_type) for name, array in arrays.items()}, config, definition)

`Evaluation` holds the arithmetic: how a value is stored, how terms are summed, how matrices are multiplied. `Evaluated`
is the array that sends NumPy's functions to it, and `Namespace` is the array's namespace. Every choice that an
implementation may make freely is drawn from rng. `measured` says what these choices are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ops import namespace as ops_namespace
from .rounding import Precision, round_factor, round_to


class NotMeasured(Exception):
    """The algorithms for this answer have nothing in common, so only the derived bound applies."""


@dataclass(frozen=True)
class Evaluation:
    """The arithmetic of one implementation: plain float64 arrays in and out, rounded to precision, drawn from rng."""

    precision: Precision
    rng: np.random.Generator

    @property
    def accumulator(self) -> type[np.floating]:
        """The dtype that sums are accumulated in."""
        return np.float64 if self.precision.accumulate < 2.0**-24 else np.float32

    def noise(self, shape: tuple[int, ...]) -> np.ndarray:
        """The error of an elementary function, relative to its value or, for (1 + f) / 2, to 1."""
        return self.rng.uniform(-2.0, 2.0, shape) * min(self.precision.store, 2.0**-23)

    def constant(self, c: float) -> float:
        """A constant of the formula, rounded to the dtype or not."""
        return float(round_to(np.float64(c), self.precision)) if self.rng.random() < 0.5 else c

    def store(self, exact: Any) -> np.ndarray:
        """A result as it is stored: rounded to the dtype, or kept in the accumulator's precision by a fused kernel."""
        exact = np.asarray(exact)
        if exact.dtype.kind != "f":
            return exact
        fused = self.rng.random() < 0.5
        return exact.astype(self.accumulator).astype(np.float64) if fused else round_to(exact, self.precision)

    def sum(self, t: np.ndarray, axis: int | None, keepdims: bool) -> np.ndarray:
        """The sum over one axis, or over all, in some order."""
        if axis is None:
            t, axis = t.reshape(-1), 0
        total = self._sum_in_some_order(np.moveaxis(t, axis, 0))
        return np.asarray(np.expand_dims(total, axis) if keepdims else total)

    def _sum_in_some_order(self, terms: np.ndarray) -> np.ndarray:
        wide = self.accumulator
        terms = self.rng.permutation(terms, axis=0).astype(wide)
        if self.rng.random() < 0.5:
            return np.asarray(np.sum(terms, axis=0, dtype=wide), dtype=np.float64)
        total = np.zeros(terms.shape[1:], dtype=wide)
        for term in terms:
            total = total + term
        return total.astype(np.float64)

    def matmul(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """a @ b, with the terms of each sum in some order."""
        if a.ndim == 1:
            return self.matmul(a[None], b)[..., 0, :]
        a, b = round_factor(a, self.precision), round_factor(b, self.precision)
        order = self.rng.permutation(a.shape[-1])
        a, b = a[..., order].astype(self.accumulator), b[..., order, :].astype(self.accumulator)
        if self.rng.random() < 0.5:
            return (a @ b).astype(np.float64)
        total = np.zeros((a[..., :1] @ b[..., :1, :]).shape, dtype=self.accumulator)
        for k in range(a.shape[-1]):
            total = total + a[..., k : k + 1] * b[..., k : k + 1, :]
        return total.astype(np.float64)


class Evaluated(np.ndarray):
    """An array on which everything is computed by its evaluation. `evaluated_type` sets the two attributes."""

    evaluation: ClassVar[Evaluation]
    namespace: ClassVar["Namespace"]  # one object for all arrays of an evaluation: ops compare it by identity

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return self.namespace

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        evaluation = self.evaluation
        plain = [np.asarray(a) if isinstance(a, np.ndarray) else a for a in inputs]
        if method == "at":
            return ufunc.at(*plain)
        if method == "reduce" and ufunc is np.add and plain[0].dtype.kind == "f":
            exact = evaluation.sum(plain[0], options.get("axis", 0), bool(options.get("keepdims", False)))
        elif ufunc is np.matmul:
            exact = evaluation.matmul(*plain)
        else:
            constants = [evaluation.constant(a) if isinstance(a, float) else a for a in plain]
            exact = getattr(ufunc, method)(*constants, **options)
            if ufunc in (np.exp, np.log):
                exact = exact * (1.0 + evaluation.noise(np.shape(exact)))
        return evaluation.store(exact).view(type(self))

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        result = super().__array_function__(function, types, args, kwargs)
        return result.view(type(self)) if isinstance(result, np.ndarray) else result


class Namespace:
    """NumPy for one type of Evaluated arrays. Tables of angles are rounded when stored; the angles are not."""

    def __init__(self, array_type: type[Evaluated]) -> None:
        self._array_type = array_type

    def cos(self, t: Any) -> Any:
        return self._store(np.cos(np.asarray(t)))

    def sin(self, t: Any) -> Any:
        return self._store(np.sin(np.asarray(t)))

    def mean(self, t: Any, axis: int | None = None, keepdims: bool = False) -> Any:
        return np.sum(t, axis=axis, keepdims=keepdims) / (t.size if axis is None else t.shape[axis])

    def normal_cdf(self, t: Any) -> Any:
        return self._with_noise(ops_namespace.normal_cdf, t)

    def normal_pdf(self, t: Any) -> Any:
        return self._with_noise(ops_namespace.normal_pdf, t)

    def sigmoid(self, t: Any) -> Any:
        return self._with_noise(ops_namespace.sigmoid, t)

    def low_rank(self, t: Any, rank: int) -> Any:
        raise NotMeasured("decompositions differ more from one algorithm to another than one does from itself")

    def arange(self, *span: int, dtype: Any = None) -> Any:
        return np.arange(*span, dtype=dtype).view(self._array_type)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def _with_noise(self, function: Callable[[Any], Any], t: Any) -> Any:
        return self._store(function(np.asarray(t)) + self._array_type.evaluation.noise(t.shape))

    def _store(self, exact: Any) -> Any:
        return self._array_type.evaluation.store(exact).view(self._array_type)


def evaluated_type(precision: Precision, rng: np.random.Generator) -> type[Evaluated]:
    """The array type of one evaluation. Views, slices and results have this type too, and with it the evaluation."""
    array_type: type[Evaluated] = type("Evaluated", (Evaluated,), {"evaluation": Evaluation(precision, rng)})
    array_type.namespace = Namespace(array_type)
    return array_type
