"""The measured bar: how far right implementations really are from the exact answer.

`rounding` derives what may happen. Here it is tried: the contract's own answer is computed a dozen times as somebody
in the case's dtype would, each time another way, and the differences from the exact answer are looked at.

* Every result is rounded to the dtype where it is stored, or, for one operation in two, kept in the accumulator's
  precision, as fused kernels do. Constants of the formula are rounded or not, too.
* The scale is off by up to three roundings, the same way everywhere, as it is when sqrt(s) is folded into both factors.
* Sums and products run over their terms in another order each time: one after another, or in the blocks of BLAS.
* In one run of three LoRA is merged into the weights first, where that is right.

For each output, z = error / standard deviation, with the deviation that `rounding` says. A right answer may have

    |z|                                  <= MARGIN * the largest |z| of the runs,      everywhere
    root mean square of z                <= MARGIN * the largest of the runs,          over the output
    root mean square of z over a row     <= MARGIN * the largest of the runs and rows, for every row

besides staying below what `rounding` allows. MARGIN = 3 is the project's choice, as flash-attention's tests have 2 to 3
for one run: with a dozen runs of some hundred numbers the largest |z| lies beyond three standard deviations, and three
times that is an event of less than 10^-15 for errors that are sums of many roundings. The deviation stands below the
error so that small and large numbers of one output are judged alike; that it is too large where errors cancel (the
numerator and denominator of a softmax) does not matter here, for it divides both sides.

Source of the idea: the tests of flash-attention, which compare with the error of a plain evaluation in low precision.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...ops.namespace import normal_cdf, normal_pdf, sigmoid
from ..case import Case, widen
from ..definition import RIGHT
from .judge import Right, root_mean_squares
from .merging import merge_weights
from .rounding import Precision, precision_of, round_to
from .statistics import Distribution

RUNS = 12
MARGIN = 3.0
FEW = 16  # of fewer numbers, a dozen runs do not know the spread: it is taken to be a deviation at least

AnswerFunction = Callable[..., dict[str, Any]]


class NotMeasured(Exception):
    """What is asked is computed by algorithms that have nothing in common: what is derived must do."""


def tighten(
    case: Case, right: Mapping[str, Right | Distribution], answer: AnswerFunction
) -> dict[str, Right | Distribution]:
    """The right answers with what is measured, where that is less than what is derived."""
    numbers = {name: one for name, one in right.items() if isinstance(one, Right)}
    if case.exact or len(numbers) < len(right):  # nothing is rounded, or what is drawn at random is judged otherwise
        return dict(right)
    seed = zlib.crc32(case.id.encode())
    try:
        runs = [_evaluate(case, answer, seed + run, merge=run % 3 == 2) for run in range(RUNS)]
    except NotMeasured:
        return dict(right)
    return {name: _tightened(one, [run[name] for run in runs if name in run]) for name, one in numbers.items()}


def _tightened(right: Right, runs: list[np.ndarray]) -> Right:
    known = right.deviation > 0
    errors = [np.abs(run - right.value) for run in runs]
    largest = max(float(np.max(error[known] / right.deviation[known], initial=0.0)) for error in errors)
    if largest == 0:  # exact in every run, as dq is with a single key: other roads round, and nothing was measured
        return right
    rms, row_rms = (max(found) for found in zip(*(root_mean_squares(e, right.deviation) for e in errors), strict=True))
    least = 1.0 if np.count_nonzero(known) < FEW else 0.0
    largest, rms, row_rms = (MARGIN * max(found, least) for found in (largest, rms, row_rms))
    allowed = np.minimum(right.allowed, largest * right.deviation)
    return replace(right, allowed=allowed, rms=rms, row_rms=row_rms)


def _evaluate(case: Case, answer: AnswerFunction, seed: int, merge: bool) -> dict[str, np.ndarray]:
    """answer(arrays, config) computed once, in one of the ways that a right implementation may."""
    precision, rng = precision_of(case.dtype, case.inner), np.random.default_rng(seed)
    array_type = evaluation(precision, rng)
    arrays = {name: array.view(array_type) for name, array in widen(case).items()}
    merge = merge and "dy" in case and "mask" not in case
    off = 1.0 + rng.uniform(-3.0, 3.0) * precision.store
    d = RIGHT.wrapped(scale=lambda scale: lambda config: off * scale(config))
    outputs = answer(merge_weights(arrays, d.scale(case.config)) if merge else arrays, case.config, d)
    kept: tuple[str, ...] = ("y", "dx") if merge else tuple(outputs)  # the other gradients are lost in a merged weight
    return {name: round_to(np.asarray(outputs[name]), precision) for name in kept if name in outputs}


def evaluation(precision: Precision, rng: np.random.Generator) -> type[np.ndarray]:
    """An array type on which everything is computed as in one implementation of that precision."""
    wide = np.float64 if precision.accumulate < 2.0**-24 else np.float32

    class Namespace:
        """NumPy, with tables of angles rounded where they are stored: the angles themselves are nobody's business."""

        cos, sin = (staticmethod(lambda t, f=f: _stored(f(np.asarray(t)))) for f in (np.cos, np.sin))

        normal_cdf, normal_pdf, sigmoid = (
            staticmethod(lambda t, f=f: _stored(f(np.asarray(t)) + noise(t.shape)))
            for f in (normal_cdf, normal_pdf, sigmoid)
        )

        def low_rank(self, t: Any, rank: int) -> Any:
            raise NotMeasured("decompositions differ more from one algorithm to another than one does from itself")

        def arange(self, *span: int, dtype: Any = None) -> Any:
            return np.arange(*span, dtype=dtype).view(Evaluated)

        def __getattr__(self, name: str) -> Any:
            return getattr(np, name)

    class Evaluated(np.ndarray):
        def __array_namespace__(self, api_version: str | None = None) -> Any:
            return namespace

        def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **how: Any) -> Any:
            plain = [_plain(a) for a in inputs]
            if method == "at":
                return ufunc.at(*plain)
            if method == "reduce" and ufunc is np.add and plain[0].dtype.kind == "f":
                exact = _sum(plain[0], how.get("axis", 0), bool(how.get("keepdims", False)))
            elif ufunc is np.matmul:
                exact = _matmul(*plain)
            else:
                constants = [_constant(a) if isinstance(a, float) else a for a in plain]
                exact = getattr(ufunc, method)(*constants, **how)
                if ufunc in (np.exp, np.log):
                    exact = exact * (1.0 + noise(np.shape(exact)))
            return _stored(exact)

        def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
            result = super().__array_function__(function, types, args, kwargs)
            return _as_evaluated(result)

    namespace = Namespace()

    def noise(shape: tuple[int, ...]) -> np.ndarray:
        """What an elementary function is off by, relative to its value or, for (1 + f) / 2, to 1."""
        return rng.uniform(-2.0, 2.0, shape) * min(precision.store, 2.0**-23)

    def _plain(a: Any) -> Any:
        return np.asarray(a) if isinstance(a, np.ndarray) else a

    def _as_evaluated(result: Any) -> Any:
        return result.view(Evaluated) if isinstance(result, np.ndarray) else result

    def _constant(c: float) -> float:
        return float(round_to(np.float64(c), precision)) if rng.random() < 0.5 else c

    def _stored(exact: Any) -> Any:
        if np.asarray(exact).dtype.kind != "f":
            return np.asarray(exact).view(Evaluated)
        fused = rng.random() < 0.5
        kept = np.asarray(exact, dtype=wide).astype(np.float64) if fused else round_to(np.asarray(exact), precision)
        return kept.view(Evaluated)

    def _sum(t: np.ndarray, axis: int | None, keepdims: bool) -> np.ndarray:
        if axis is None:
            t, axis = t.reshape(-1), 0
        total = _in_some_order(np.moveaxis(t, axis, 0))
        return np.asarray(np.expand_dims(total, axis) if keepdims else total)

    def _in_some_order(terms: np.ndarray) -> np.ndarray:
        terms = rng.permutation(terms, axis=0).astype(wide)
        if rng.random() < 0.5:
            return np.asarray(np.sum(terms, axis=0, dtype=wide), dtype=np.float64)
        total = np.zeros(terms.shape[1:], dtype=wide)
        for term in terms:
            total = total + term
        return total.astype(np.float64)

    def _as_factor(t: np.ndarray) -> np.ndarray:
        return (
            round_to(t, replace(precision, store=precision.factors, tiny=precision.factors_tiny))
            if precision.factors
            else t
        )

    def _matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if a.ndim == 1:
            return _matmul(a[None], b)[..., 0, :]
        a, b = (_as_factor(t) for t in (a, b))
        order = rng.permutation(a.shape[-1])
        a, b = a[..., order].astype(wide), b[..., order, :].astype(wide)
        if rng.random() < 0.5:
            return (a @ b).astype(np.float64)
        total = np.zeros((a[..., :1] @ b[..., :1, :]).shape, dtype=wide)
        for k in range(a.shape[-1]):
            total = total + a[..., k : k + 1] * b[..., k : k + 1, :]
        return total.astype(np.float64)

    return Evaluated
