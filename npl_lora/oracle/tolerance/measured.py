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
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ..case import Case, widen
from ..definition import RIGHT, AnswerFunction
from ._evaluation import NotMeasured, evaluated_type
from .judge import Right, root_mean_squares
from .merging import merge_weights
from .rounding import precision_of, round_to
from .statistics import Distribution

RUNS = 12
MARGIN = 3.0
FEW = 16  # of fewer numbers, a dozen runs do not know the spread: it is taken to be a deviation at least


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
    array_type = evaluated_type(precision, rng)
    arrays = {name: array.view(array_type) for name, array in widen(case).items()}
    merge = merge and "dy" in case and "mask" not in case
    off = 1.0 + rng.uniform(-3.0, 3.0) * precision.store
    d = RIGHT.wrapped(scale=lambda scale: lambda config: off * scale(config))
    outputs = answer(merge_weights(arrays, d.scale(case.config)) if merge else arrays, case.config, d)
    kept: tuple[str, ...] = ("y", "dx") if merge else tuple(outputs)  # the other gradients are lost in a merged weight
    return {name: round_to(np.asarray(outputs[name]), precision) for name in kept if name in outputs}
