"""The measured bar: three times the largest error, in standard deviations, of twelve evaluations in the case's dtype.

`rounding` derives how large an error can be. This file tries it. It computes the contract's own answer twelve times, as
twelve different implementations in that dtype would, and compares each with the exact answer:

* Every result is rounded to the dtype when it is stored. For every second operation it is kept in the accumulator's
  precision instead, as fused kernels do. Constants of the formula may be rounded or not.
* The scale is off by up to three roundings, by the same factor everywhere. That happens when sqrt(s) is folded into
  both factors.
* Sums and products take their terms in another order each time, one by one or in blocks, as BLAS does.
* Where the user allows float64 inputs to be cast to float32, every evaluation casts them.
* Every third evaluation merges LoRA into the weights first, where that gives the right answer: y and dx, without a
  dropout mask. So dA and dB are compared with the eight others.

For each output, z = error / standard deviation, with the deviation from `rounding`. A right answer must stay below what
`rounding` allows, and it must satisfy

    |z|                                  <= MARGIN * the largest |z| of the evaluations              everywhere
    root mean square of z                <= MARGIN * the largest one of the evaluations              over the output
    root mean square of z over a row     <= MARGIN * the largest one of the evaluations and rows     for every row

MARGIN = 3 is the project's choice; flash-attention's tests use 2 to 3 with one evaluation. In twelve evaluations of
some hundred numbers, the largest |z| is beyond three standard deviations. Three times that has a probability below
10^-15, if the error is a sum of many roundings. Errors are divided by the deviation so that small and large numbers of
one output are judged alike. The deviation is too large where errors cancel, as in the numerator and denominator of a
softmax. That does no harm here, because both sides are divided by it.

Source of the idea: the tests of flash-attention, which compare with the error of a plain evaluation in low precision.
"""

import zlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ..case import Case, is_dropout_mask, widen
from ..definition import RIGHT, AnswerFunction
from ._evaluation import NotMeasured, evaluated_type
from .judge import Right, root_mean_squares
from .merging import merge_weights, merged_linear
from .rounding import Precision, precision_of, round_to
from .statistics import Distribution

EVALUATIONS = 12
MARGIN = 3.0
FEW = 16  # twelve evaluations of fewer numbers do not show the spread: it is taken as one deviation at least


def tighten(
    case: Case, right: Mapping[str, Right | Distribution], answer: AnswerFunction
) -> dict[str, Right | Distribution]:
    """The right answers, each with the measured bar where it is below the derived one."""
    numbers = {name: one for name, one in right.items() if isinstance(one, Right)}
    if case.exact or len(numbers) < len(right):  # nothing is rounded, or some outputs are drawn at random
        return dict(right)
    seed = zlib.crc32(case.id.encode())
    try:
        evaluations = [_evaluate(case, answer, seed + i, merge=i % 3 == 2) for i in range(EVALUATIONS)]
    except NotMeasured:
        return dict(right)
    return {name: _tighten(one, [e[name] for e in evaluations if name in e]) for name, one in numbers.items()}


def _tighten(right: Right, evaluations: list[np.ndarray]) -> Right:
    known = right.deviation > 0
    errors = [np.abs(evaluation - right.value) for evaluation in evaluations]
    largest = max(float(np.max(error[known] / right.deviation[known], initial=0.0)) for error in errors)
    if largest == 0:  # exact each time, as dq is with a single key: another way may round, so nothing was measured
        return right
    squares = zip(*(root_mean_squares(error, right.deviation) for error in errors), strict=True)
    rms, row_rms = (max(each) for each in squares)
    least = 1.0 if np.count_nonzero(known) < FEW else 0.0
    largest, rms, row_rms = (MARGIN * max(value, least) for value in (largest, rms, row_rms))
    allowed = np.minimum(right.allowed, largest * right.deviation)
    return replace(right, allowed=allowed, measured=largest, rms=rms, row_rms=row_rms)


def _evaluate(case: Case, answer: AnswerFunction, seed: int, merge: bool) -> dict[str, np.ndarray]:
    """answer(arrays, config), computed once in one of the ways that are right."""
    precision, rng = precision_of(case.dtype, case.inner), np.random.default_rng(seed)
    array_type = evaluated_type(precision, rng)
    arrays = {name: _cast(array, precision).view(array_type) for name, array in widen(case).items()}
    merge = merge and "dy" in case and "alpha" in case.config and not any(map(is_dropout_mask, case.arrays))
    off = 1.0 + rng.uniform(-3.0, 3.0) * precision.store
    d = RIGHT.wrapped(scale=lambda scale: lambda config: off * scale(config))
    if merge and isinstance(case.config["r"], list):  # each row has the weight of its own adapter
        d = d.wrapped(lora_linear=merged_linear)
    elif merge:
        arrays = merge_weights(arrays, d.scale(case.config))
    outputs = answer(arrays, case.config, d)
    kept: tuple[str, ...] = ("y", "dx") if merge else tuple(outputs)  # merged weights have no other gradients
    return {name: round_to(np.asarray(outputs[name]), precision) for name in kept if name in outputs}


def _cast(array: np.ndarray, precision: Precision) -> np.ndarray:
    """An input, rounded to the stored format if inputs may be."""
    return np.asarray(round_to(array, precision)) if precision.inputs and array.dtype.kind == "f" else array
