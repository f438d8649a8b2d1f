"""Explaining each wrong output for itself: the fewest hypotheses that together give what came back.

A hypothesis explains an output in a case if what came back is what it gives, within what is allowed, and is wrong. It
need not explain the other outputs: a layer may have a mistake in y alone. Nor need it hold in every case: a mistake may
stand in one branch, such as that with dropout.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from ..report import Observed
from ..tolerance.judge import Right, right_answer
from ..tolerance.rounding import PRECISIONS
from ..tolerance.statistics import Distribution
from .compare import UNANSWERED, changes, degree, error_ratio, predict, quick_distance
from .degrees import fitted
from .hypothesis import Hypothesis
from .precision import Element
from .progress import OnProgress, silent

_CLEARLY = 0.35  # so much nearer than the right answer a hypothesis must be. Small errors never are
EVIDENCE = 24.0  # bits: some thousand hypotheses are tried, 12 bits, and one in as many runs may err
_LIKE = 0.7  # the cosine between two errors from which on the degree is looked for
_LEADS = 24  # so many are tried for an output
_FIRST_STAGES = 3  # those that are tried on more than one case


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
    def order(self) -> tuple[int, bool, bool, int]:
        """Those that explain most come first, then known faults, then what nothing contradicts, then the simplest."""
        return -len(self.elements), self.hypothesis.fault is None, bool(self.contradicted), self.hypothesis.rank

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
        and _has_wrong_numbers(one.right.get(name), one.outputs[name])
    ]


def _has_wrong_numbers(right: Right | Distribution | None, got: np.ndarray) -> bool:
    """Not so where the first answer is right, and the second one differs from it."""
    return isinstance(right, Right) and (got.dtype.kind != "f" or changes(got.astype(np.float64), right))


def explain(hypotheses: Iterable[Hypothesis], observed: Sequence[Observed], on_progress: OnProgress = silent) -> Cover:
    """The fewest hypotheses that explain as much as can be explained.

    The hypotheses come in stages of like rank, the simplest first. A stage is tried on one case, and what fits there is
    compared with all. The search ends when one hypothesis explains everything.
    """
    answered = [one for one in observed if one.outputs is not None]
    wrong = frozenset(wrong_elements(answered))
    stages = [list(stage) for _, stage in groupby(sorted(hypotheses, key=_stage), key=_stage)]
    candidates: list[Explanation] = []
    leads: list[_Lead] = []
    left, total, tried = wrong, sum(map(len, stages)), 0
    for number, probe in enumerate(probes(answered)):
        if not any((probe.case.id, name) in left for name in probe.failed):
            continue
        errors = _errors(probe)
        for stage in stages if number == 0 else stages[:_FIRST_STAGES]:
            near = []
            for hypothesis in stage:
                on_progress(f"explanations of {probe.case.id}", tried, total)
                near += _near(hypothesis, probe, errors, leads)
                tried += 1
            candidates += _explanations(near, answered)
            if any(e.elements == wrong for e in candidates):
                return _choose(candidates, wrong)
        tried = 0
        left = wrong - frozenset().union(*(e.elements for e in candidates))
    return _choose([*candidates, *_by_degree(leads, left, answered, on_progress)], wrong)


def _by_degree(
    leads: Iterable["_Lead"], left: frozenset[Element], answered: Sequence[Observed], on_progress: OnProgress
) -> list[Explanation]:
    """What leads to some degree explain of what is left. The search ends when one of them explains it all."""
    explanations: list[Explanation] = []
    for number, lead in enumerate(promising := _most_promising(leads, left)):
        on_progress("by what degree", number, len(promising))
        if close := fitted(lead.hypothesis, lead.probe, lead.name, lead.degree):
            explanations += _explanations([replace(close, is_fitted=True)], answered)
            if any(e.elements >= left for e in explanations):
                break
    return explanations


def _explanations(hypotheses: Iterable[Hypothesis], answered: Sequence[Observed]) -> list[Explanation]:
    return [e for hypothesis in hypotheses if (e := _explanation(hypothesis, answered)).elements]


@dataclass(frozen=True)
class _Lead:
    """A mistake by degrees whose error in one output points about where the one that came back does."""

    hypothesis: Hypothesis
    probe: Observed
    name: str
    degree: float
    likeness: float


def _most_promising(leads: Iterable[_Lead], left: frozenset[Element]) -> list[_Lead]:
    """For each output that nothing explains, those that are most like it, and each hypothesis once."""
    chosen: dict[str, list[_Lead]] = {}
    tried = set[str]()
    for lead in sorted(leads, key=lambda lead: -lead.likeness):
        of_output = chosen.setdefault(lead.name, [])
        is_new = (lead.probe.case.id, lead.name) in left and lead.hypothesis.says not in tried
        if is_new and len(of_output) < _LEADS:
            of_output.append(lead)
            tried.add(lead.hypothesis.says)
    return [lead for of_output in chosen.values() for lead in of_output]


def _stage(hypothesis: Hypothesis) -> int:
    return hypothesis.rank // 10


def _choose(candidates: Sequence[Explanation], wrong: frozenset[Element]) -> Cover:
    """Take the best one for what is left, again and again; then drop those that what is left refutes."""
    chosen: list[tuple[Explanation, list[Explanation]]] = []
    left = wrong
    while useful := [replace(e, elements=e.elements & left) for e in candidates if e.elements & left]:
        best = min(useful, key=lambda e: e.order)
        chosen.append((best, [e for e in useful if _is_rival(e, best)]))
        left -= best.elements
    while refuted := next((e for e, _ in chosen if e.refuted & left), None):
        chosen = [(e, rivals) for e, rivals in chosen if e is not refuted]
        left |= refuted.elements
    return Cover(chosen, left)


def _is_rival(e: Explanation, best: Explanation) -> bool:
    same = e.elements == best.elements and bool(e.contradicted) == bool(best.contradicted)
    return same and e.hypothesis is not best.hypothesis


def probes(answered: Sequence[Observed]) -> list[Observed]:
    """Few failing cases in which every output that fails anywhere fails, those of the finest dtype first."""
    failing = sorted((one for one in answered if one.failed), key=lambda one: PRECISIONS[one.case.dtype].store)
    chosen, covered = [], set[tuple[str, bool, str]]()
    for one in failing:
        kinds = {(name, "mask" in one.case, repr(one.case.config.get("use_rslora"))) for name in one.failed}
        if not kinds <= covered:
            chosen.append(one)
            covered |= kinds
    return chosen


def _errors(probe: Observed) -> dict[str, float]:
    """{wrong output: the sum of squares of its errors}"""
    rights = {name: probe.right.get(name) for name in probe.failed if name in (probe.outputs or {})}
    return {name: _squares(right.value, probe, name) for name, right in rights.items() if isinstance(right, Right)}


def _near(hypothesis: Hypothesis, probe: Observed, errors: Mapping[str, float], leads: list[_Lead]) -> list[Hypothesis]:
    """The hypothesis, in the right degree, if it gives some wrong output of this case, by a quick comparison.

    leads: gets those whose degree is still to be found.
    """
    if hypothesis.value is not None and not _may_be(hypothesis, probe):
        return []
    predicted = predict(hypothesis.answer, probe)
    shown = [name for name in errors if name in predicted and changes(predicted[name], probe.right[name])]
    for name in shown:
        clear = _squares(predicted[name], probe, name) <= _CLEARLY**2 * errors[name]
        if clear and quick_distance(predicted[name], probe, name) < 1.0:
            return [hypothesis]
    for name in shown:
        found = degree(predicted[name], probe, name)
        if hypothesis.gradual is not None and found is not None:
            if found.fits:
                return [replace(hypothesis.gradual(c), is_fitted=True) for c in found.fits]
            if found.likeness > _LIKE:
                leads.append(_Lead(hypothesis, probe, name, found.nearest, found.likeness))
    return []


def _may_be(hypothesis: Hypothesis, probe: Observed) -> bool:
    """Whether the op's value, where the hypothesis changes it, may be what came back."""
    assert hypothesis.value is not None
    for name, predicted in predict(hypothesis.value, probe).items():
        if name in (probe.outputs or {}) and changes(predicted, probe.right[name]):
            found = degree(predicted, probe, name) if hypothesis.gradual is not None else None
            by_degree = found is not None and (bool(found.fits) or found.likeness > _LIKE)
            return by_degree or quick_distance(predicted, probe, name) < 1.0
    return True


def _explanation(hypothesis: Hypothesis, answered: Sequence[Observed]) -> Explanation:
    elements, contradicted, shown, bits = set[Element](), set[Element](), set[Element](), [np.zeros(1)]
    for one in answered:
        assert one.outputs is not None
        predicted = predict(hypothesis.answer, one)
        shows = [n for n in predicted if n in one.outputs and n in one.right and changes(predicted[n], one.right[n])]
        contradicted |= {(one.case.id, name) for name in shows if name not in one.failed}
        shown |= {(one.case.id, name) for name in shows if name in one.failed}
        near = [name for name in shows if name in one.failed and quick_distance(predicted[name], one, name) < 1.0]
        for name in _reproduced(hypothesis, one, near):
            elements.add((one.case.id, name))
            bits.append(_bits(one, name))
    every = np.concatenate(bits)
    if np.sum(every) - (np.max(every) if hypothesis.is_fitted else 0.0) < EVIDENCE:  # a degree fits any one number
        elements = set()
    return Explanation(hypothesis, frozenset(elements), frozenset(contradicted), frozenset(shown - elements))


def _bits(one: Observed, name: str) -> np.ndarray:
    """How unlikely it is to meet each number of this output by chance, in bits: a wrong number that is met to within
    what is allowed is one of |error| / allowed that could have come."""
    right, got = one.right[name], (one.outputs or {})[name]
    assert isinstance(right, Right)
    with np.errstate(all="ignore"):
        choices = np.abs(got.astype(np.float64) - right.value)[right.allowed > 0] / right.allowed[right.allowed > 0]
    return np.log2(np.maximum(choices[np.isfinite(choices)], 1.0))


def _squares(expected: np.ndarray, one: Observed, name: str) -> float:
    """The sum of squares of got - expected, in units of what is allowed."""
    right, got = one.right[name], (one.outputs or {})[name]
    assert isinstance(right, Right)
    if expected.shape != got.shape or got.dtype.kind != "f":
        return np.inf
    with np.errstate(all="ignore"):
        ratio = (got.astype(np.float64) - expected)[right.allowed > 0] / right.allowed[right.allowed > 0]
    return float(np.sum(np.square(ratio[np.isfinite(ratio)])))


def _reproduced(hypothesis: Hypothesis, one: Observed, names: Sequence[str]) -> list[str]:
    """Those outputs that it gives within what is allowed for an implementation that is wrong in this way."""
    if not names or one.outputs is None:
        return []
    try:
        with np.errstate(all="ignore"):
            predicted = right_answer(one.case, hypothesis.answer)
    except UNANSWERED:
        return []
    return [name for name in names if error_ratio(predicted[name], one.outputs[name]) <= 1.0]
