"""Explaining each wrong output for itself: the fewest hypotheses that together give what came back.

A hypothesis explains an output in a case if what came back is what it gives, within what is allowed, and is wrong. It
need not explain the other outputs: a layer may have a mistake in y alone. Nor need it hold in every case: a mistake may
stand in one branch, such as that with dropout.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from ..contracts import CONTRACTS
from ..report import Observed
from ..tolerance.judge import Right, right_answer
from ..tolerance.rounding import PRECISIONS
from ..tolerance.statistics import Distribution
from .compare import UNANSWERED, Degree, changes, degree, error_ratio, is_nearer, predict, quick_distance
from .degrees import fitted
from .hypothesis import Hypothesis
from .precision import Element
from .progress import OnProgress, silent
from .where import short_name

_CLEARLY = 0.35  # so much nearer than the right answer a hypothesis must be. Small errors never are
EVIDENCE = 24.0  # bits: some thousand hypotheses are tried, 12 bits, and one in as many runs may err
_OF_FAULTS = 20.0  # some two hundred of these are known faults and their halves: 8 bits in the place of 12
_BALL = (2.0 * np.pi * np.e) ** 0.5 / 2.0  # half the side of the box of a ball's volume, by its root mean square
_LIKE = 0.7  # the cosine between two errors from which on the degree is looked for
_SOMEWHAT_LIKE = 0.3  # and from which on others of a family are tried. Where all is linear, they have 0.7 or 1
READ_FROM = ("y", "y_again")  # the masks that a subject draws by itself
_LEADS = 24  # so many are tried for an output
_FIRST_STAGES = 2  # those that are tried on more than one case: known faults, and edits of an op as a whole


@dataclass(frozen=True)
class Explanation:
    """A hypothesis and what it explains.

    contradicted: outputs that it would change, and that came back right.
    refuted: outputs that it would change, and that came back wrong in another way.
    """

    hypothesis: Hypothesis
    elements: frozenset[Element]
    contradicted: frozenset[Element]
    refuted: frozenset[Element]

    @property
    def order(self) -> tuple[int, bool, int, int]:
        """Those that explain most come first, then known faults, then what least contradicts, then the simplest.

        What changes an argument of an op and is contradicted nowhere comes before a fault that must stand in one
        branch or output alone.
        """
        h = self.hypothesis
        is_known = self.against == 0 and h.is_of_argument if h.fault is None else True
        return -len(self.elements), not is_known, self.against, h.rank

    @property
    def against(self) -> int:
        """How many outputs speak against it."""
        return len(self.contradicted | self.refuted)

    @property
    def outputs(self) -> frozenset[str]:
        return frozenset(name for _, name in self.elements)


@dataclass(frozen=True)
class Cover:
    """chosen: each with its rivals, which explain the same as well. left: what nothing explains."""

    chosen: list[tuple[Explanation, list[Explanation]]]
    left: frozenset[Element]

    def in_every_case(self) -> "Cover":
        """Without what explains an output in some cases, and would change it in others, where it is right or wrong in
        another way."""
        kept = [
            (e, rivals) for e, rivals in self.chosen if not any(n in e.outputs for _, n in e.contradicted | e.refuted)
        ]
        explained = frozenset().union(*(e.elements for e, _ in self.chosen))
        return Cover(kept, (self.left | explained) - frozenset().union(*(e.elements for e, _ in kept)))


def wrong_elements(observed: Iterable[Observed]) -> list[Element]:
    """The outputs that came back with wrong numbers, by case."""
    return [
        (one.case.id, name)
        for one in observed
        for name in one.failed
        if one.outputs is not None
        and name in one.outputs
        and name in one.right
        and _has_wrong_numbers(one.bar(name), one.outputs[name])
    ]


def _has_wrong_numbers(right: Right | Distribution, got: np.ndarray) -> bool:
    """Not so where the first answer is right, and the second one differs from it."""
    return isinstance(right, Right) and (got.dtype.kind != "f" or changes(got.astype(np.float64), right))


def explain(hypotheses: Iterable[Hypothesis], observed: Sequence[Observed], on_progress: OnProgress = silent) -> Cover:
    """The fewest hypotheses that explain as much as can be explained.

    The hypotheses come in stages of like rank, the simplest first. A stage is tried on one case, and what fits there is
    compared with all. The search ends when one hypothesis explains everything, and not in one branch alone.
    """
    answered = [one for one in observed if one.outputs is not None]
    wrong = frozenset(wrong_elements(answered))
    value_name = CONTRACTS[answered[0].case.contract].value_name if answered else ""
    stages = [list(stage) for _, stage in groupby(sorted(hypotheses, key=_stage), key=_stage)]
    candidates: list[Explanation] = []
    leads: list[_Lead] = []
    left, total, tried = wrong, sum(map(len, stages)), 0
    for number, probe in enumerate(probes(answered)):
        if not any((probe.case.id, name) in left for name in probe.failed):
            continue
        trial = _Trial(probe, leads)
        for stage in stages if number == 0 else stages[:_FIRST_STAGES]:
            near = []
            for hypothesis in stage:
                on_progress(f"explanations of {probe.case.id}", tried, total)
                near += trial.near(hypothesis)
                tried += 1
            candidates += _explanations(near, answered)
            whole = [e for e in candidates if e.elements == wrong]
            if any(e.against == 0 or e.hypothesis.fault is None for e in whole):
                return _choose(candidates, wrong, value_name)
        if trial.put_off and any((probe.case.id, trial.value_name) in e.elements for e in candidates):
            candidates += _explanations([h for one in trial.put_off for h in trial.compared(one)], answered)
        tried = 0
        left = wrong - frozenset().union(*(e.elements for e in candidates))
    return _choose([*candidates, *_by_degree(leads, left, answered, on_progress)], wrong, value_name)


def _by_degree(
    leads: Iterable["_Lead"], left: frozenset[Element], answered: Sequence[Observed], on_progress: OnProgress
) -> list[Explanation]:
    """What leads to some degree explain of what is left. The search ends when one of them explains it all."""
    explanations: list[Explanation] = []
    for number, lead in enumerate(promising := _most_promising(leads, left)):
        on_progress("by what degree", number, len(promising))
        close = fitted(lead.hypothesis, lead.probe, lead.name, lead.degree)
        explanations += _explanations((replace(one, is_fitted=True) for one in close), answered)
        if any(e.elements >= left for e in explanations):
            break
    return explanations


def _explanations(hypotheses: Iterable[Hypothesis], answered: Sequence[Observed]) -> list[Explanation]:
    return [e for h in hypotheses for one in _also_differentiated(h) if (e := _explanation(one, answered)).elements]


def _also_differentiated(hypothesis: Hypothesis) -> Iterator[Hypothesis]:
    yield hypothesis
    if hypothesis.differentiated is not None:
        yield replace(hypothesis.differentiated, is_fitted=hypothesis.is_fitted)


@dataclass(frozen=True)
class _Lead:
    """A mistake by degrees whose error in one output points about where the one that came back does."""

    hypothesis: Hypothesis
    probe: Observed
    name: str
    degree: float
    likeness: float


def _most_promising(leads: Iterable[_Lead], left: frozenset[Element]) -> list[_Lead]:
    """For each output that nothing explains, those that are most like it, and each hypothesis once.

    There are many terms, and much that happens to one of them is like what happens to another: they have a list apart.
    """
    chosen: dict[tuple[str, bool], list[_Lead]] = {}
    tried = set[str]()
    for lead in sorted(leads, key=lambda lead: -lead.likeness):
        of_output = chosen.setdefault((lead.name, lead.hypothesis.is_of_term), [])
        is_new = (lead.probe.case.id, lead.name) in left and lead.hypothesis.says not in tried
        if is_new and len(of_output) < _LEADS:
            of_output.append(lead)
            tried.add(lead.hypothesis.says)
    return [lead for of_output in chosen.values() for lead in of_output]


def _stage(hypothesis: Hypothesis) -> int:
    return hypothesis.rank // 10


def _choose(candidates: Sequence[Explanation], wrong: frozenset[Element], value_name: str) -> Cover:
    """Take the best one for what is left, again and again; then drop those that what is left refutes.

    Gradients refute no edit that gives every wrong value: the backward may have a mistake more.
    """
    values = {element for element in wrong if element[1] == value_name}
    chosen: list[tuple[Explanation, list[Explanation]]] = []
    left = wrong
    while useful := [replace(e, elements=e.elements & left) for e in candidates if e.elements & left]:
        best = min(useful, key=lambda e: e.order)
        chosen.append((best, [e for e in useful if _is_rival(e, best)]))
        left -= best.elements
    while refuted := next((e for e, _ in chosen if e.refuted & left and not _gives(e, values)), None):
        chosen = [(e, rivals) for e, rivals in chosen if e is not refuted]
        left |= refuted.elements
    return Cover(chosen, left)


def _gives(e: Explanation, values: Set[Element]) -> bool:
    return e.hypothesis.fault is None and bool(values) and values <= e.elements


def _is_rival(e: Explanation, best: Explanation) -> bool:
    return e.elements == best.elements and e.against == best.against and e.hypothesis is not best.hypothesis


def probes(answered: Sequence[Observed]) -> list[Observed]:
    """Few failing cases in which every output that is wrong anywhere is wrong, those of the finest dtype first."""
    failing = sorted((one for one in answered if one.failed), key=lambda one: PRECISIONS[one.case.dtype].store)
    chosen, covered = [], set[tuple[str, bool, str]]()
    for one in failing:
        kinds = {
            (name, "mask" in one.case, repr(one.case.config.get("use_rslora"))) for _, name in wrong_elements([one])
        }
        if not kinds <= covered:
            chosen.append(one)
            covered |= kinds
    return chosen


def _errors(probe: Observed) -> dict[str, float]:
    """{wrong output: the sum of squares of its errors}"""
    rights = {name: probe.right.get(name) for name in probe.failed if name in (probe.outputs or {})}
    return {name: _squares(right.value, probe, name) for name, right in rights.items() if isinstance(right, Right)}


class _Trial:
    """Hypotheses tried on one case, by a quick comparison.

    leads: gets those whose degree is still to be found. put_off: those that give another wrong value than came back,
    which is no explanation unless something else explains the value.
    """

    def __init__(self, probe: Observed, leads: list[_Lead]) -> None:
        self.probe, self.leads = probe, leads
        self.errors = _errors(probe)
        self.value_name = CONTRACTS[probe.case.contract].value_name
        self.put_off: list[Hypothesis] = []
        self._likeness: dict[str, float] = {}  # of families
        self._shows_in_value = set[str]()  # sites, where the value is right

    def near(self, hypothesis: Hypothesis) -> list[Hypothesis]:
        """The hypothesis, in the right degree, if it gives some wrong output of this case."""
        if self._likeness.get(hypothesis.family, 1.0) < _SOMEWHAT_LIKE:
            return []
        if hypothesis.half == "backward" and self.errors.keys() == {self.value_name}:
            return []
        if hypothesis.value is None or self._may_be(hypothesis):
            return self.compared(hypothesis)
        if not hypothesis.is_in_halves:
            self.put_off.append(hypothesis)
        return []

    def compared(self, hypothesis: Hypothesis) -> list[Hypothesis]:
        """The same, from the whole answer."""
        probe, predicted = self.probe, predict(hypothesis.answer, self.probe)
        shown = [n for n in self.errors if n in predicted and changes(predicted[n], probe.bar(n))]
        for name in shown:
            clear = _squares(predicted[name], probe, name) <= _CLEARLY**2 * self.errors[name]
            if clear and quick_distance(predicted[name], probe, name) < 1.0:
                return [hypothesis]
        if hypothesis.gradual is None and not hypothesis.family:
            return []
        degrees = {name: degree(predicted[name], probe, name) for name in shown}
        self._note(hypothesis, degrees.values())
        for name, found in degrees.items():
            if hypothesis.gradual is not None and found is not None:
                if found.fits:
                    return [replace(hypothesis.gradual(c), is_fitted=True) for c in found.fits]
                if found.likeness > _LIKE:
                    self.leads.append(_Lead(hypothesis, probe, name, found.nearest, found.likeness))
        return []

    def _may_be(self, hypothesis: Hypothesis) -> bool:
        """Whether the op's value, where the hypothesis changes it and it is wrong or another hypothesis has the mistake
        in the backward alone, may be what came back."""
        assert hypothesis.value is not None
        probe, name = self.probe, self.value_name
        if not (hypothesis.is_in_halves or name in self.errors) or name not in (probe.outputs or {}):
            return True
        if hypothesis.site in self._shows_in_value:
            return False
        predicted = predict(hypothesis.value, probe).get(name)
        if predicted is None or not changes(predicted, probe.bar(name)):
            return True
        found = degree(predicted, probe, name) if hypothesis.gradual is not None or hypothesis.family else None
        by_degree = (
            hypothesis.gradual is not None and found is not None and (bool(found.fits) or found.likeness > _LIKE)
        )
        if by_degree or quick_distance(predicted, probe, name) < 1.0:
            return True
        self._note(hypothesis, [found])
        if hypothesis.site and name not in probe.failed:
            self._shows_in_value.add(hypothesis.site)
        return False

    def _note(self, hypothesis: Hypothesis, found: Iterable[Degree | None]) -> None:
        """How much what came back is like the first one of a family. Where that is not clear, others are tried."""
        if hypothesis.family:
            likeness = max((1.0 if one is None else one.likeness for one in found), default=1.0)
            self._likeness.setdefault(hypothesis.family, likeness)


def _explanation(hypothesis: Hypothesis, answered: Sequence[Observed]) -> Explanation:
    elements, contradicted, shown = set[Element](), set[Element](), set[Element]()
    bits: dict[tuple[str, str, str], np.ndarray] = {}
    for one in answered:
        assert one.outputs is not None
        predicted = predict(hypothesis.answer, one)
        shows = [n for n in predicted if n in one.outputs and n in one.right and changes(predicted[n], one.bar(n))]
        contradicted |= {(one.case.id, name) for name in shows if name not in one.failed}
        shown |= {(one.case.id, name) for name in shows if name in one.failed}
        near = [name for name in shows if name in one.failed and quick_distance(predicted[name], one, name) < 1.0]
        for name, reproduced in _reproduced(hypothesis, one, near).items():
            elements.add((one.case.id, name))
            found = _bits(one, name, reproduced, hypothesis.fault is not None)
            bits[short_name(one.case), one.case.dtype, name] = np.append(found, -_bits_of_masks(one, name))
    if _evidence(bits, hypothesis.is_fitted) < (EVIDENCE if hypothesis.fault is None else _OF_FAULTS):
        elements = set()
    return Explanation(hypothesis, frozenset(elements), frozenset(contradicted), frozenset(shown - elements))


def _evidence(bits: Mapping[tuple[str, str, str], np.ndarray], is_fitted: bool) -> float:
    """How unlikely it is to meet all these numbers by chance, in bits. bits: of a case's output in a dtype.

    A degree fits any one number. Another dtype of the case holds the same number, so it counts once.
    """
    if not bits:
        return 0.0
    if not is_fitted:
        return sum(float(np.sum(b)) for b in bits.values())
    once: dict[tuple[str, str], np.ndarray] = {}
    for (case, _, name), b in bits.items():
        if np.sum(b) > np.sum(once.get((case, name), 0.0)):
            once[case, name] = b
    return sum(float(np.sum(b)) for b in once.values()) - max((float(np.max(b)) for b in once.values()), default=0.0)


def _bits(one: Observed, name: str, reproduced: Right, is_fault: bool) -> np.ndarray:
    """How unlikely it is to meet each number of this output by chance, in bits.

    Errors as large as these, which could have come out anywhere between -|error| and |error|, fill a box. Those that
    are met as nearly as the n numbers of this output are fill a ball, whose radius is what is left of the errors: it
    has the volume of a box of sqrt(2 pi e) times the root mean square of that (Stirling). What came back was rounded
    to its dtype, so no number tells more bits than that has.

    A number that is not finite is not met by chance, but many edits make one: it is evidence for a known fault alone.
    """
    right, got = one.right[name], (one.outputs or {})[name].astype(np.float64)
    assert isinstance(right, Right)
    deviation = np.maximum(right.deviation, reproduced.deviation)
    usable = (deviation > 0) & np.isfinite(got)
    if not np.any(usable):
        return np.full(1, EVIDENCE if is_fault and not np.all(np.isfinite(got)) else 0.0)
    left = np.sqrt(np.mean(np.square((got - reproduced.value)[usable] / deviation[usable])))
    width = _BALL * left * deviation
    width = np.where(reproduced.allowed > 0, np.fmin(width, reproduced.allowed), width)[usable]
    error = np.abs(got - right.value)[usable]
    width = np.maximum(width, PRECISIONS[one.case.dtype].store * np.maximum(error, np.abs(got[usable])))
    return np.asarray(np.log2(np.where(error > width, error, 1.0) / np.where(error > width, width, 1.0)))


def _bits_of_masks(one: Observed, name: str) -> np.ndarray:
    """How many bits a mask has that was read from this output, at most. It may have been read so that they fit."""
    is_read = CONTRACTS[one.case.contract].settle is not None and name in READ_FROM
    return np.full(1, float((one.outputs or {})[name].size) if is_read else 0.0)


def _squares(expected: np.ndarray, one: Observed, name: str) -> float:
    """The sum of squares of got - expected, in units of what is allowed."""
    right, got = one.right[name], (one.outputs or {})[name]
    assert isinstance(right, Right)
    if expected.shape != got.shape or got.dtype.kind != "f":
        return np.inf
    with np.errstate(all="ignore"):
        ratio = (got.astype(np.float64) - expected)[right.allowed > 0] / right.allowed[right.allowed > 0]
    return float(np.sum(np.square(ratio[np.isfinite(ratio)])))


def _is_nearer(predicted: np.ndarray, one: Observed, name: str) -> bool:
    right, got = one.right[name], (one.outputs or {})[name].astype(np.float64)
    return not isinstance(right, Right) or is_nearer(got, predicted, right.value)


def _reproduced(hypothesis: Hypothesis, one: Observed, names: Sequence[str]) -> dict[str, Right]:
    """Those outputs that it gives within what is allowed for an implementation that is wrong in this way."""
    if not names or one.outputs is None:
        return {}
    try:
        with np.errstate(all="ignore"):
            predicted = right_answer(one.case, hypothesis.answer)
    except UNANSWERED:
        return {}
    near = {name: right for name in names if isinstance(right := predicted[name], Right)}
    return {n: r for n, r in near.items() if error_ratio(r, one.outputs[n]) <= 1.0 and _is_nearer(r.value, one, n)}
