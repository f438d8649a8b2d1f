"""The diagnosis of a dump: what is wrong with those of its outputs that were judged.

A small lora_linear step is looked at whole. Of a large one, two samples are: some columns of y with the same rows of
dB, and some columns of dx with the same columns of dA. Each needs some rows or columns of W only. Where what is left
is large still, the samples have some rows only, and lack dA and dB, which are sums over all rows.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from ..case import Case, widen
from ..contracts import CONTRACTS
from ..diagnosis import diagnose
from ..diagnosis.progress import OnProgress, silent
from ..dtypes import computable
from ..report import NOTHING, CaseReport, Diagnosis, Observed
from ..tolerance.judge import Right, judge_output, right_answer
from .step import INPUTS, OUTPUTS, Step

_WHOLE = 1 << 15  # numbers in a step that is looked at whole
_ALL_ROWS = 1 << 21  # numbers in x or dy, if a sample has all of their rows
_SOME = 16  # rows or columns in a sample: half of them evenly spread, the first and the last among them
_TINY = 1e-100  # smaller numbers get no diagnosis: their squares underflow

Places = Mapping[str, np.ndarray]  # {axis: the indices that are taken}


def diagnose_step(step: Step, report: CaseReport, on_progress: OnProgress = silent) -> Diagnosis:
    """The diagnosis of a step that was judged wrong."""
    judged = [name for name in report.outputs if name in OUTPUTS and name not in step.refused]
    samples = [(_everything(step), judged)] if _numbers(step) <= _WHOLE else _samples(step, judged)
    return diagnose_all([_observed(step, places, names) for places, names in samples if names], on_progress)


def diagnose_all(observed: list[Observed], on_progress: OnProgress = silent) -> Diagnosis:
    """The diagnosis, unless some right numbers are too small for it."""
    rights = [right for one in observed for right in one.right.values() if isinstance(right, Right)]
    if any(0.0 < np.max(np.abs(right.value), initial=0.0) < _TINY for right in rights):
        return NOTHING
    return diagnose(observed, on_progress=on_progress)


def _numbers(step: Step) -> int:
    return sum(array.size for array in step.arrays.values())


def _everything(step: Step) -> dict[str, np.ndarray]:
    return {axis: np.arange(length) for axis, length in step.sizes.items()}


def _samples(step: Step, judged: list[str]) -> Iterator[tuple[Places, list[str]]]:
    """(places, outputs) for y and dB, and for dx and dA."""
    for axis, summed, of_rows, of_factor in (("out", "in", "y", "dB"), ("in", "out", "dx", "dA")):
        all_rows = step.sizes["..."] * step.sizes[summed] <= _ALL_ROWS
        names = [name for name in judged if name == of_rows or (name == of_factor and all_rows)]
        everything = _everything(step)
        spread = {**everything, "...": _spread(step.sizes["..."], _SOME)}
        columns = _spread(step.sizes[axis], _SOME // 2)
        if of_rows in names:
            columns = np.union1d(columns, _worst_columns(step, spread, of_rows))
        yield {**(everything if all_rows else spread), axis: columns}, names


def _spread(length: int, n: int) -> np.ndarray:
    return np.unique(np.linspace(0, length - 1, n).round().astype(int))


def _worst_columns(step: Step, places: Places, name: str) -> np.ndarray:
    """Those columns of y or dx that are furthest off in these rows."""
    case, got = _case(step, places), _taken(step, places, name).astype(np.float64)
    right = CONTRACTS["lora_linear"].answer(widen(case), case.config)[name]
    off = np.max(np.abs(got - right), axis=0)
    return np.argsort(-off, kind="stable")[: _SOME // 2]


def _observed(step: Step, places: Places, names: list[str]) -> Observed:
    """These outputs of a part of the step. An array is zero where the dump has none, since no output here needs it."""
    case = _case(step, places)
    answer = right_answer(case, CONTRACTS["lora_linear"].answer)
    right = {name: answer[name] for name in names}
    outputs = {name: array.reshape(right[name].shape) for name in names for array in [_taken(step, places, name)]}
    failed = [name for name in names if judge_output(right[name], outputs[name]).verdict == "fail"]
    return Observed(case, right, computable(outputs), tuple(failed))


def _case(step: Step, places: Places) -> Case:
    arrays = {}
    for name in ("x", "W", "A", "B", "dy", *(name for name in ("b", "mask") if step.has(name))):
        array = _taken(step, places, name) if step.has(name) else _zeros(step, places, name)
        whole = "..." in INPUTS[name] and len(places["..."]) == step.sizes["..."]
        arrays[name] = array.reshape(*step.leading, array.shape[-1]) if whole else array
    return Case("lora_linear", step.id, step.dtype, step.config, arrays, inner=step.inner)


def _taken(step: Step, places: Places, name: str) -> np.ndarray:
    axes = (INPUTS | OUTPUTS)[name].split()
    return step.arrays[name][np.ix_(*(places[axis] for axis in axes))]


def _zeros(step: Step, places: Places, name: str) -> np.ndarray:
    return np.zeros([len(places[axis]) for axis in INPUTS[name].split()], step.arrays["A"].dtype)
