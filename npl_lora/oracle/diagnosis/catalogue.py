"""Which faults of the catalogue, singly or in pairs, answer exactly as the subject does.

A fault is claimed only if it reproduces every output of every case that was answered, each within what is allowed for
an implementation that has this fault. (The wrong definition runs on error-carrying arrays as the right one does.) Where
a case was not answered, the fault must break there too.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..case import widen
from ..contracts import CONTRACTS
from ..definition import AnswerFunction
from ..faults import FAULTS, Fault, wrong_answer
from ..faults.fault import wrong_value
from ..faults.relevant import relevant_to
from ..report import Observed
from ..tolerance.judge import Right, right_answer
from ..tolerance.rounding import PRECISIONS
from ..tolerance.statistics import Distribution
from .compare import UNANSWERED, changes, error_ratio, is_nearer, predict, quick_distance
from .evidence import explanation
from .hypothesis import of_fault

_SUSPECTS = 64  # so many are compared exactly: those that fit further cases by a quick comparison, the nearest first


def matches(observed: Sequence[Observed], faults: Iterable[Fault] = FAULTS) -> list[tuple[Fault, ...]]:
    """The faults, or else the pairs of faults, that reproduce everything observed of one contract.

    They come in the order of the catalogue.
    """
    return single_matches(observed, faults) or several_matches(observed, faults)


def single_matches(observed: Sequence[Observed], faults: Iterable[Fault] = FAULTS) -> list[tuple[Fault, ...]]:
    """The faults that each reproduce everything, and change something that was answered."""
    relevant = relevant_to(observed[0].case.contract, faults)
    if drawn := [fault for fault in relevant if fault.objection and _is_the_only_objection(fault.objection, observed)]:
        return [(fault,) for fault in drawn]
    if _numbers_are_right(observed):
        return []  # a match could only be a fault that changes nothing
    ordered = sorted(observed, key=_sharpness)
    distances = [(_distances(fault, ordered[0]).worst, (fault,)) for fault in relevant]
    found = _reproducing(distances, ordered)
    return [faults for faults in found if not _may_be_chance(faults[0], observed, len(relevant))]


def _may_be_chance(fault: Fault, observed: Sequence[Observed], tried: int) -> bool:
    """Whether so little is wrong that one of so many faults may give it by chance. Exact numbers are not met so, and
    draws are judged otherwise."""
    answered = [one for one in observed if one.outputs is not None]
    if any(isinstance(one.right.get(name), Distribution) for one in answered for name in one.failed):
        return False
    found = explanation(of_fault(observed[0].case.contract, fault), answered, tried)
    return 0.0 < sum(found.bits.values()) < found.enough


def several_matches(observed: Sequence[Observed], faults: Iterable[Fault] = FAULTS) -> list[tuple[Fault, ...]]:
    """The sets of faults that together reproduce everything: each in cases of its own, or pairs in the same cases."""
    if _numbers_are_right(observed):
        return []  # a match could only be a fault that changes nothing
    relevant = relevant_to(observed[0].case.contract, faults)
    ordered = sorted(observed, key=_sharpness)
    distances = {fault.name: _distances(fault, ordered[0]) for fault in relevant}
    return (
        _covering(relevant, ordered)
        or _reproducing(_likely_pairs(relevant, distances, ordered[0]), ordered)
        or _reproducing(_possible_pairs(relevant, distances, ordered[0]), ordered)
    )


def _numbers_are_right(observed: Sequence[Observed]) -> bool:
    return all_reproduced((), observed) and not any(_is_beyond_its_bar(one, n) for one in observed for n in one.failed)


def _is_beyond_its_bar(one: Observed, name: str) -> bool:
    """Whether some number is beyond the bar by which the output failed."""
    if name not in one.failed or name not in one.right or name not in (one.outputs or {}):
        return False
    return error_ratio(one.bar(name), (one.outputs or {})[name]) > 1.0


def _is_the_only_objection(objection: str, observed: Sequence[Observed]) -> bool:
    """Whether all numbers are right in every case, and this objection to how they were drawn is the only one."""
    return all(set(one.objections) == {objection} and len(one.failed) == len(one.objections) for one in observed)


def _sharpness(one: Observed) -> tuple[bool, float, bool, int, int]:
    """A key for sorting. Failing cases in fine dtypes with many wrong outputs come first: they tell most faults apart.

    One token tells few apart, since all that it has is lost at once. Among the others, small cases are quicker.
    """
    size = sum(math.prod(right.shape) for right in one.right.values())
    tokens = math.prod(one.case["x"].shape[:-1]) if "x" in one.case else 2
    unit = PRECISIONS[one.case.dtype].store
    return not (one.failed and one.outputs is not None), unit, tokens < 2, -len(one.failed), size


@dataclass(frozen=True)
class _Distances:
    """A quick comparison of a fault with what came back in one case.

    distance: for each output, how far the fault's answer is from what came back, in units of a generous tolerance.
        If all are below 1, the exact comparison is worth its time.
    changed: the outputs that the fault changes.
    """

    distance: dict[str, float]
    changed: frozenset[str]

    @property
    def worst(self) -> float:
        return max(self.distance.values(), default=np.inf)


def _distances(fault: Fault, one: Observed) -> _Distances:
    wrong = _wrong_outputs((fault,), one)
    distance = {name: quick_distance(output, one, name) for name, output in wrong.items()}
    return _Distances(distance, frozenset(name for name in wrong if changes(wrong[name], one.right[name])))


def _distance(faults: tuple[Fault, ...], one: Observed) -> float:
    """The largest distance of an output from what came back; inf as soon as one is not below 1."""
    if _misses_the_value(faults, one):
        return np.inf
    largest = 0.0 if (wrong := _wrong_outputs(faults, one)) else np.inf
    for name, output in wrong.items():
        largest = max(largest, quick_distance(output, one, name))
        if not largest < 1.0:
            return np.inf
    return largest


def _misses_the_value(faults: tuple[Fault, ...], one: Observed) -> bool:
    """Whether the op's value alone shows that these faults give something else. Most do, and it is half of the work."""
    value = predict(wrong_value(one.case.contract, *faults), one)
    return any(not quick_distance(value[name], one, name) < 1.0 for name in value if name in (one.outputs or {}))


def _wrong_outputs(faults: tuple[Fault, ...], one: Observed) -> dict[str, np.ndarray | Distribution]:
    """What an implementation with these faults answers; {} where they raise, or answer other outputs."""
    assert one.outputs is not None
    try:
        with np.errstate(all="ignore"):
            answer = wrong_answer(one.case.contract, *faults)(widen(one.case), one.case.config)
    except UNANSWERED:
        return {}
    answer = {name: output for name, output in answer.items() if _is_asked(name, one)}
    if answer.keys() != one.outputs.keys():
        return {}
    return {n: output if isinstance(output, Distribution) else np.asarray(output) for n, output in answer.items()}


def _is_asked(name: str, one: Observed) -> bool:
    """Not so for an output that a dump lacks."""
    return name in one.right or name in (one.outputs or {})


def _likely_pairs(
    faults: Sequence[Fault], distances: Mapping[str, _Distances], one: Observed
) -> list[tuple[float, tuple[Fault, Fault]]]:
    """The pairs that fit in all outputs that only one of the two faults changes, with their distances.

    An output that one fault alone changes must be what that fault alone gives, and an output that neither changes must
    be right. This needs no new evaluation, so it is much quicker than trying every pair.
    """
    pairs = []
    for f, g in itertools.combinations(faults, 2):
        a, b = distances[f.name], distances[g.name]
        alone = {**b.distance, **{name: d for name, d in a.distance.items() if name not in b.changed}}
        both = a.changed & b.changed
        if all(distance < 1.0 for name, distance in alone.items() if name not in both):
            pairs.append((_distance((f, g), one) if both else max(alone.values(), default=np.inf), (f, g)))
    return pairs


def _possible_pairs(
    faults: Sequence[Fault], distances: Mapping[str, _Distances], one: Observed
) -> list[tuple[float, tuple[Fault, Fault]]]:
    """Every pair that changes all wrong outputs, with its distance.

    A right value is not changed by one fault and put right by another that leaves it alone.
    """
    value = CONTRACTS[one.case.contract].value_name
    changed = [distances[fault.name].changed for fault in faults]
    together = zip(itertools.combinations(faults, 2), itertools.combinations(changed, 2), strict=True)
    return [
        (_distance(pair, one), pair)
        for pair, (a, b) in together
        if a | b >= set(one.failed) and (value in one.failed or (value in a) == (value in b))
    ]


def _reproducing(
    candidates: Sequence[tuple[float, tuple[Fault, ...]]], observed: Sequence[Observed]
) -> list[tuple[Fault, ...]]:
    near = _narrowed([one for one in candidates if one[0] < 1.0], observed[1:])
    nearest = sorted(range(len(near)), key=lambda n: near[n][0])[:_SUSPECTS]
    return [
        faults
        for _, faults in map(near.__getitem__, sorted(nearest))
        if all_reproduced(faults, observed)
        and all(_shows(fault, observed) for fault in faults)
        and all(_are_nearer(faults, one) for one in observed)
    ]


def _narrowed(
    candidates: list[tuple[float, tuple[Fault, ...]]], observed: Sequence[Observed]
) -> list[tuple[float, tuple[Fault, ...]]]:
    """Those that are near in further cases too, until few are left.

    A case that one fault alone explains fits every pair of it with a fault that shows elsewhere.
    """
    for one in observed:
        if len(candidates) <= _SUSPECTS:
            break
        if one.outputs is not None:
            candidates = [each for each in candidates if _distance(each[1], one) < 1.0]
    return candidates


def _are_nearer(faults: tuple[Fault, ...], one: Observed) -> bool:
    """Whether every wrong output is much nearer to what these faults give than to what is right."""
    if one.outputs is None:
        return True
    for name, output in _wrong_outputs(faults, one).items():
        right = one.right.get(name)
        if isinstance(right, Right) and isinstance(output, np.ndarray) and _is_beyond_its_bar(one, name):
            got = one.outputs[name].astype(np.float64)
            if got.shape == right.shape == output.shape and not is_nearer(got, output, right.value):
                return False
    return True


def _shows(fault: Fault, observed: Sequence[Observed]) -> bool:
    """Whether the fault changes something that was answered, or raises where nothing was."""
    return any(_shows_in(fault, one) for one in observed)


def _shows_in(fault: Fault, one: Observed) -> bool:
    if one.outputs is None:
        return True
    wrong = _wrong_outputs((fault,), one)
    return any(changes(output, one.bar(name)) for name, output in wrong.items())


def _covering(faults: Sequence[Fault], observed: Sequence[Observed]) -> list[tuple[Fault, ...]]:
    """Several faults, where each alone explains some failing cases, and together they reproduce everything."""
    names: dict[str, Observed] = {}  # one dtype of each case is enough here: all_reproduced compares every one
    for one in observed:
        if one.failed and one.outputs is not None:
            names.setdefault(one.case.id.rpartition("/")[0], one)
    failing = list(names.values())
    if not any(_explains(fault, failing[0]) for fault in faults):
        return []  # several in one case are left to the pairs
    explained = {fault.name: {n for n, one in enumerate(failing) if _explains(fault, one)} for fault in faults}
    instead: list[list[Fault]] = []  # for each fault that is needed, those that would do in its place
    left = set(range(len(failing)))
    while new := max((explained[fault.name] & left for fault in faults), key=len, default=set()):
        instead.append([fault for fault in faults if new <= explained[fault.name]])
        left -= new
    sets: dict[tuple[str, ...], tuple[Fault, ...]] = {}
    for chosen in itertools.islice(itertools.product(*instead), _SUSPECTS):
        ordered = tuple(fault for fault in faults if fault in chosen)
        sets[tuple(fault.name for fault in ordered)] = ordered
    return [ordered for ordered in sets.values() if len(ordered) > 1 and all_reproduced(ordered, observed)]


def _explains(fault: Fault, one: Observed) -> bool:
    return _distance((fault,), one) < 1.0 and all_reproduced((fault,), [one])


def all_reproduced(faults: tuple[Fault, ...], observed: Sequence[Observed]) -> bool:
    """Whether these faults reproduce everything observed of one contract.

    Each number must lie within what is allowed for an implementation that has these faults.
    """
    answer = wrong_answer(observed[0].case.contract, *faults)
    return all(_is_reproduced(answer, one) for one in observed)


def _is_reproduced(answer: AnswerFunction, one: Observed) -> bool:
    try:
        with np.errstate(all="ignore"):
            predicted = right_answer(one.case, answer)
    except UNANSWERED:
        predicted = None
    if predicted is None or one.outputs is None:
        return predicted is None and one.outputs is None
    predicted = {name: right for name, right in predicted.items() if _is_asked(name, one)}
    if predicted.keys() != one.outputs.keys():
        return False
    return all(error_ratio(predicted[name], one.outputs[name]) <= 1.0 for name in predicted)
