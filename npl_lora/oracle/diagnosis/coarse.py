"""The right answer computed in a coarser format: its inputs, its matrix products or all its results rounded.

    inputs, factors    what goes in; what goes into a matrix product
    products, sums     what comes out of a matrix product; each partial sum, within it or of any array
    results            what comes out of every operation
    everything         inputs and results

These are the common ways to lose precision. Errors of rounding look random, but each of these ways gives a pattern of
its own, number by number. So a pattern that comes back proves the format.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ops import Pullback
from ..case import Case, widen
from ..contracts import CONTRACTS
from .hypothesis import with_parts

PLACES = ("inputs", "factors", "products", "sums", "results", "everything")


@dataclass(frozen=True)
class Format:
    """A floating format.

    bits: of its significand. as_dtype: the dtype whose tolerance fits it. least, most: how many bits errors have that
    come from it.
    """

    name: str
    bits: int
    as_dtype: str
    least: float
    most: float

    def round(self, t: np.ndarray, truncate: bool = False) -> np.ndarray:
        """To nearest, ties to even, or toward zero. The range of the exponent is not limited."""
        _, exponent = np.frexp(t)
        quantum = np.ldexp(1.0, exponent - self.bits)
        return (np.trunc if truncate else np.rint)(t / quantum) * quantum


FORMATS = (
    Format("float32", 24, "float32", 22.0, 40.0),
    Format("float16 or TF32", 11, "float16", 10.5, 20.0),
    Format("bfloat16", 8, "bfloat16", 6.0, 14.0),
)


@dataclass(frozen=True)
class Way:
    """A way to compute coarsely: where is one of PLACES."""

    format: Format
    where: str
    truncate: bool


WAYS = [Way(format, where, truncate) for format in FORMATS for truncate in (False, True) for where in PLACES]


def answer_with(case: Case, part: str, way: Way) -> dict[str, np.ndarray]:
    """The right formula, of which one part is computed in this way: its value and its gradients."""
    array_type = _array_type(way)

    def coarse(t: Any) -> Any:
        return _input(t, way).view(array_type) if isinstance(t, np.ndarray) and t.dtype.kind == "f" else t

    def wrap(op: Any) -> Any:
        def inside(*args: Any, **kwargs: Any) -> Any:
            y, pullback = op(*map(coarse, args), **{name: coarse(a) for name, a in kwargs.items()})

            def gradients(dy: Any, wrt: frozenset[str]) -> dict[str, Any]:
                return {name: np.asarray(grad) for name, grad in pullback(coarse(dy), wrt=wrt).items()}

            return np.asarray(y), Pullback(gradients, y, pullback.inputs, pullback.frozen)

        return inside

    return with_parts(case.contract, {part: wrap})(widen(case), case.config)


def answer(case: Case, way: Way) -> dict[str, np.ndarray]:
    """The right formula, computed in this way."""
    array_type = _array_type(way)
    arrays = {n: _input(a, way).view(array_type) if a.dtype.kind == "f" else a for n, a in widen(case).items()}
    outputs = CONTRACTS[case.contract].answer(arrays, case.config)
    return {name: np.asarray(t) for name, t in outputs.items()}


def _input(t: np.ndarray, way: Way) -> np.ndarray:
    return way.format.round(t, way.truncate) if way.where in ("inputs", "everything") else t


class _Coarse(np.ndarray):
    """An array whose products and results are rounded. `_array_type` sets the way."""

    way: ClassVar[Way]

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        way, plain = self.way, [np.asarray(a) if isinstance(a, np.ndarray) else a for a in inputs]
        if method == "at":
            return ufunc.at(*plain)
        options.pop("out", None)  # np.mean asks for its sum to be overwritten, and takes what is returned
        if ufunc is np.matmul:
            return _product(plain[0], plain[1], way).view(type(self))
        if ufunc is np.add and method == "reduce" and way.where == "sums":
            return _sum(plain[0], way, **options).view(type(self))
        result = np.asarray(getattr(ufunc, method)(*plain, **options))
        if result.dtype.kind == "f" and way.where in ("results", "everything"):
            result = way.format.round(result, way.truncate)
        return result.view(type(self))

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        result = super().__array_function__(function, types, args, kwargs)
        return result.view(type(self)) if isinstance(result, np.ndarray) else result


def _product(a: np.ndarray, b: np.ndarray, way: Way) -> np.ndarray:
    if way.where == "factors":
        a, b = way.format.round(a, way.truncate), way.format.round(b, way.truncate)
    if way.where == "sums" and a.ndim > 1 and b.ndim > 1:
        return _sum_of_products(a, b, way)
    y = np.asarray(a @ b)
    return way.format.round(y, way.truncate) if way.where in ("products", "results", "everything") else y


def _sum_of_products(a: np.ndarray, b: np.ndarray, way: Way) -> np.ndarray:
    """a @ b, one term after another, the sum rounded each time."""
    terms = (a[..., k : k + 1] @ b[..., k : k + 1, :] for k in range(a.shape[-1]))
    return _added(terms, way)


def _sum(t: np.ndarray, way: Way, axis: int | None = 0, keepdims: bool = False, **_: Any) -> np.ndarray:
    """np.sum of one axis or of all."""
    if axis is None:
        return _sum(t.reshape(-1), way).reshape((1,) * t.ndim if keepdims else ())
    total = _added(np.moveaxis(t, axis, 0), way) if t.shape[axis] else np.sum(t, axis)
    return np.expand_dims(total, axis) if keepdims else total


def _added(terms: Iterable[np.ndarray], way: Way) -> np.ndarray:
    """The sum of these terms, one after another, rounded each time."""
    total: Any = 0.0
    for term in terms:
        total = way.format.round(total + term, way.truncate)
    return np.asarray(total)


def _array_type(way: Way) -> type[_Coarse]:
    return type("Coarse", (_Coarse,), {"way": way})
