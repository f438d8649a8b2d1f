"""The diagnosis of a dump: what is wrong with those of its outputs that were judged.

A small lora_linear step is looked at whole. Of a large one, samples are: some columns of y with the same rows of dB,
and some columns of dx with the same columns of dA. Each needs some rows or columns of W only. Where what is left is
large still, the samples have some rows only, and lack dA and dB, which are sums over all rows.

A sample has other lengths and other places than the step. So there are two of each, of different lengths: what reads a
length fits one of them at most. And no place in a sample is told.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from ..case import Case, widen
from ..contracts import CONTRACTS
from ..diagnosis import diagnose
from ..diagnosis.progress import OnProgress, silent
from ..diagnosis.words import listed
from ..dtypes import computable
from ..report import NOTHING, CaseReport, Diagnosis, Observed
from ..tolerance.judge import Right, judge_output, right_answer
from .step import INPUTS, OUTPUTS, Step

_WHOLE = 1 << 15  # numbers in a step that is looked at whole
_ALL_ROWS = 1 << 20  # numbers in x or dy, if a sample has all of their rows
_SOME = (16, 11)  # rows or columns in a sample: half of them evenly spread, the first and the last among them
_TINY = 1e-100  # smaller numbers get no diagnosis: their squares underflow

Places = Mapping[str, np.ndarray]  # {axis: the indices that are taken}


def diagnose_step(step: Step, report: CaseReport, on_progress: OnProgress = silent) -> Diagnosis:
    """The diagnosis of a step that was judged wrong."""
    judged = [name for name in report.outputs if name in OUTPUTS and name not in step.refused]
    if not step.sizes["..."] or not judged:
        return NOTHING
    whole = _numbers(step) <= _WHOLE
    samples = [(_everything(step), judged)] if whole else _samples(step, judged)
    observed = [_observed(step, report, places, names) for places, names in samples if names]
    diagnosis = diagnose_all([one for one in observed if one.right], on_progress, places=whole)
    unseen = [name for name in OUTPUTS if name not in judged]
    if unseen and diagnosis.matches:  # a known fault is told with all that it does
        says = f"As far as {listed(judged)} {'shows' if len(judged) == 1 else 'show'}: {diagnosis.says}"
        return replace(diagnosis, says=says)
    return diagnosis


def diagnose_all(observed: list[Observed], on_progress: OnProgress = silent, places: bool = True) -> Diagnosis:
    """The diagnosis, unless some right numbers are too small for it."""
    rights = [right for one in observed for right in one.right.values() if isinstance(right, Right)]
    if any(0.0 < np.max(np.abs(right.value), initial=0.0) < _TINY for right in rights):
        return NOTHING
    return diagnose(observed, on_progress=on_progress, places=places)


def _numbers(step: Step) -> int:
    return sum(array.size for array in step.arrays.values())


def _everything(step: Step) -> dict[str, np.ndarray]:
    return {axis: np.arange(length) for axis, length in step.sizes.items()}


def _samples(step: Step, judged: list[str]) -> Iterator[tuple[Places, list[str]]]:
    """(places, outputs) for y and dB, and for dx and dA."""
    for axis, summed, of_rows, of_factor in (("out", "in", "y", "dB"), ("in", "out", "dx", "dA")):
        all_rows = step.sizes["..."] * step.sizes[summed] <= _ALL_ROWS
        names = [name for name in judged if name == of_rows or (name == of_factor and all_rows)]
        for some in _SOME:
            everything = _everything(step)
            spread = {**everything, "...": _spread(step.sizes["..."], some)}
            columns = _spread(step.sizes[axis], some // 2)
            for name in names:
                rows = everything if name == of_factor else spread
                columns = np.union1d(columns, _worst_columns(step, rows, axis, name, some // 4))
            yield {**(everything if all_rows else spread), axis: columns}, names


def _spread(length: int, n: int) -> np.ndarray:
    return np.unique(np.linspace(0, length - 1, n).round().astype(int))


def _worst_columns(step: Step, places: Places, axis: str, name: str, some: int) -> np.ndarray:
    """Those places along an axis where an output is furthest off; for y and dx, in some rows."""
    case, got = _case(step, places), _taken(step, places, name).astype(np.float64)
    right = np.asarray(CONTRACTS["lora_linear"].answer(widen(case), case.config)[name]).reshape(got.shape)
    off = np.max(np.abs(got - right), axis=OUTPUTS[name].split().index("..." if name in ("y", "dx") else "r"))
    return np.argsort(-off, kind="stable")[:some]


def _observed(step: Step, report: CaseReport, places: Places, names: list[str]) -> Observed:
    """These outputs of a part of the step. An array is zero where the dump has none, since no output here needs it.

    The report decides what is right: it knows what roundings tokens may share. What fails there and does not here is
    wrong somewhere else, and is left out.
    """
    case = _case(step, places)
    answer = right_answer(case, CONTRACTS["lora_linear"].answer)
    outputs = {name: array.reshape(answer[name].shape) for name in names for array in [_taken(step, places, name)]}
    fails = {name: judge_output(answer[name], outputs[name]).verdict == "fail" for name in names}
    failed = {name for name in names if report.outputs[name].verdict == "fail"}
    seen = [name for name in names if fails[name] or name not in failed]
    right = {name: answer[name] for name in seen}
    got = computable({name: outputs[name] for name in seen})
    return Observed(case, right, got, tuple(name for name in seen if name in failed))


def _case(step: Step, places: Places) -> Case:
    arrays = {}
    for name in ("x", "W", "A", "B", "dy", *(name for name in ("b", "mask") if step.has(name))):
        array = _taken(step, places, name) if step.has(name) else _zeros(step, places, name)
        whole = "..." in INPUTS[name] and len(places["..."]) == step.sizes["..."]
        arrays[name] = array.reshape(*step.leading, array.shape[-1]) if whole else array
    sampled = any(len(at) < step.sizes[axis] for axis, at in places.items())
    lengths = ", ".join(f"{len(at)} of {axis}" for axis, at in places.items())
    id = f"{step.id} ({lengths})" if sampled else step.id
    return Case("lora_linear", id, step.dtype, step.config, arrays, inner=step.inner)


def _taken(step: Step, places: Places, name: str) -> np.ndarray:
    axes = (INPUTS | OUTPUTS)[name].split()
    return step.arrays[name][np.ix_(*(places[axis] for axis in axes))]


def _zeros(step: Step, places: Places, name: str) -> np.ndarray:
    return np.zeros([len(places[axis]) for axis in INPUTS[name].split()], step.arrays["A"].dtype)
