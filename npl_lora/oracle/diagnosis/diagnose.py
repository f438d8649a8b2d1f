"""The diagnosis of one contract, in three steps:

1. catalogue: the known faults, one or several, that reproduce every answer. Only this step names an id.
2. fit: a description, output by output: a factor, a term, an order, a place.
3. precision: errors of rounding that is coarser than the dtype's.

A step that does not fit every wrong case says nothing.
"""

from collections.abc import Sequence

import numpy as np

from ..report import NOTHING, Diagnosis, Observed
from ..tolerance.judge import Right
from ..tolerance.rounding import PRECISIONS
from . import catalogue, fit, precision
from .wrong import Wrong


def diagnose(observed: Sequence[Observed]) -> Diagnosis:
    """What is wrong with the answers to the cases of one contract, some of which failed."""
    answered = [one for one in observed if one.failed and one.outputs is not None]
    if not answered:
        return NOTHING
    if faults := catalogue.matches(observed):
        return _diagnosis_of(faults)
    return Diagnosis(says=_description(answered))


def _diagnosis_of(matches: list[tuple[catalogue.Fault, ...]]) -> Diagnosis:
    ids = tuple(dict.fromkeys(fault.id for faults in matches for fault in faults))
    best = matches[0]
    says = " ".join(f"{fault.says} ({fault.id}): it computes {fault.wrong}; right is {fault.right}." for fault in best)
    others = list(dict.fromkeys(fault.says for faults in matches[1:] for fault in faults if fault not in best))
    if others:
        says += f" These cases cannot tell it from: {'; '.join(others)}."
    return Diagnosis(ids, says, tuple(tuple(fault.id for fault in faults) for faults in matches))


def _description(answered: Sequence[Observed]) -> str:
    """One sentence for each output, in the order of the answer."""
    wrongs: dict[str, list[Wrong]] = {}
    for one in answered:
        assert one.outputs is not None
        for name in one.failed:
            got = one.outputs.get(name)
            right = one.right.get(name)
            if got is None or not isinstance(right, Right) or not _comparable(got, right):
                continue
            rights = {n: r for n, r in one.right.items() if isinstance(r, Right)}
            wrong = Wrong(name, one.case, right, rights, got.astype(np.float64))
            if np.any(wrong.wrong):  # otherwise the numbers are right, and the draws are wrong
                wrongs.setdefault(name, []).append(wrong)
    sentences, coarse = [], dict[str, list[str]]()
    for name, output in wrongs.items():
        if sentence := fit.explain(_finest(output)):
            sentences.append(sentence)
        elif format := precision.coarser(_finest(output)):
            coarse.setdefault(
                f"{_finest(output)[0].case.dtype} in and out, but the errors of {{}} are those of {format}", []
            ).append(name)
    sentences += [words.format(", ".join(names)) for words, names in coarse.items()]
    sentences += _not_finite(answered)
    return "; ".join(sentences) + "." if sentences else ""


def _not_finite(answered: Sequence[Observed]) -> list[str]:
    """Which outputs are NaN or infinite, and in which case first."""
    sentences: dict[str, str] = {}
    for one in answered:
        assert one.outputs is not None
        for name in one.failed:
            got = one.outputs.get(name)
            if got is not None and got.dtype.kind == "f" and not np.all(np.isfinite(got)):
                sentences.setdefault(name, f"{name} is not finite in {one.case.id}")
    return list(sentences.values())


def _comparable(got: np.ndarray, right: Right) -> bool:
    return got.shape == right.value.shape and got.dtype.kind == "f" and bool(np.all(np.isfinite(got)))


def _finest(wrongs: list[Wrong]) -> list[Wrong]:
    """Those in the dtype with the most digits. The others show the same, more coarsely."""
    finest = min(wrongs, key=lambda wrong: PRECISIONS[wrong.case.dtype].store).case.dtype
    return [wrong for wrong in wrongs if wrong.case.dtype == finest]
