"""Explaining each wrong output for itself: the fewest hypotheses that together give what came back.

A hypothesis explains an output in a case if what came back is what it gives, within what is allowed, and is wrong. It
need not explain the other outputs: a layer may have a mistake in y alone. Nor need it hold in every case: a mistake may
stand in one branch, such as that with dropout.
"""

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from ..contracts import CONTRACTS
from ..report import Observed
from ..tolerance.judge import Right
from ..tolerance.rounding import PRECISIONS
from ..tolerance.statistics import Distribution
from .compare import Degree, changes, degree, predict, quick_distance
from .degrees import fitted
from .evidence import Explanation, explanation
from .hypothesis import Hypothesis
from .precision import Element
from .progress import OnProgress, silent

_CLEARLY = 0.35  # so much nearer than the right answer a hypothesis must be. Small errors never are
_LIKE = 0.7  # the cosine between two errors from which on the degree is looked for
_SOMEWHAT_LIKE = 0.3  # and from which on others of a family are tried. Where all is linear, they have 0.7 or 1
_LEADS = 24  # so many are tried for an output
_FIRST_STAGES = 2  # those that are tried on more than one case: known faults, and edits of an op as a whole


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


def explain(
    faults: Iterable[Hypothesis],
    edits: Iterable[Hypothesis],
    observed: Sequence[Observed],
    on_progress: OnProgress = silent,
) -> Cover:
    """The fewest hypotheses that explain as much as can be explained.

    The known faults are tried first, then the edits in stages of like rank, the simplest first. A stage is tried on one
    case, and what fits there is compared with all. The search ends when one hypothesis explains everything, and not in
    one branch alone.
    """
    answered = [one for one in observed if one.outputs is not None]
    wrong = frozenset(wrong_elements(answered))
    value_name = CONTRACTS[answered[0].case.contract].value_name if answered else ""
    first_stages: list[list[Hypothesis]] = []
    candidates: list[Explanation] = []
    leads: list[_Lead] = []
    left = wrong
    for number, probe in enumerate(probes(answered)):
        if not any((probe.case.id, name) in left for name in probe.failed):
            continue
        trial = _Trial(probe, leads)
        for stage in first_stages if number else _in_stages(faults, edits):
            if number == 0 and len(first_stages) < _FIRST_STAGES:
                first_stages.append(stage)
            near = []
            for tried, hypothesis in enumerate(stage):
                on_progress(f"explanations of {probe.case.id}", tried, len(stage))
                near += trial.near(hypothesis)
            candidates += _explanations(near, answered, trial.faults)
            whole = [e for e in candidates if e.elements == wrong]
            if any(e.against == 0 or e.hypothesis.fault is None for e in whole):
                return _choose(candidates, wrong, value_name)
        if trial.put_off and any((probe.case.id, trial.value_name) in e.elements for e in candidates):
            candidates += _explanations(
                [h for one in trial.put_off for h in trial.compared(one)], answered, trial.faults
            )
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
        explanations += _explanations((replace(one, is_fitted=True) for one in close), answered, 0)
        if any(e.elements >= left for e in explanations):
            break
    return explanations


def _explanations(hypotheses: Iterable[Hypothesis], answered: Sequence[Observed], faults: int) -> list[Explanation]:
    variants = (one for h in hypotheses for one in _also_differentiated(h))
    return [e for one in variants if (e := explanation(one, answered, faults)).elements]


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


def _in_stages(faults: Iterable[Hypothesis], edits: Iterable[Hypothesis]) -> Iterator[list[Hypothesis]]:
    """The edits are made when no fault explains it all: there are thousands."""
    yield list(faults)
    yield from (list(stage) for _, stage in groupby(sorted(edits, key=_stage), key=_stage))


def _stage(edit: Hypothesis) -> int:
    return edit.rank // 10


def _choose(candidates: Sequence[Explanation], wrong: frozenset[Element], value_name: str) -> Cover:
    """Take the best one for what is left, again and again; then drop those that what is left refutes. One that another
    outdoes is not taken.

    Gradients refute no edit that gives every wrong value: the backward may have a mistake more.
    """
    values = {element for element in wrong if element[1] == value_name}
    chosen: list[tuple[Explanation, list[Explanation]]] = []
    left = wrong
    candidates = [e for e in candidates if not any(other.outdoes(e) for other in candidates)]
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
    which is no explanation unless something else explains the value. faults: how many known faults change an output
    that is wrong here.
    """

    def __init__(self, probe: Observed, leads: list[_Lead]) -> None:
        self.probe, self.leads = probe, leads
        self.errors = _errors(probe)
        self.value_name = CONTRACTS[probe.case.contract].value_name
        self.put_off: list[Hypothesis] = []
        self.faults = 0
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
        self.faults += hypothesis.fault is not None and bool(shown)
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


def _squares(expected: np.ndarray, one: Observed, name: str) -> float:
    """The sum of squares of got - expected, in units of what is allowed. A NaN is as far as can be from any number."""
    right, got = one.right[name], (one.outputs or {})[name]
    assert isinstance(right, Right)
    if expected.shape != got.shape or got.dtype.kind != "f":
        return np.inf
    if not np.array_equal(np.isnan(got), np.isnan(expected)):
        return np.inf
    with np.errstate(all="ignore"):
        ratio = (got.astype(np.float64) - expected)[right.allowed > 0] / right.allowed[right.allowed > 0]
    return float(np.sum(np.square(ratio[np.isfinite(ratio)])))
