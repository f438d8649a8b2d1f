"""What a hypothesis explains of what was observed, and whether that could have come by chance.

Evidence is counted in bits. It is as unlikely to meet a number by chance as the error is large, in units of what is
left of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..contracts import CONTRACTS
from ..report import Observed
from ..tolerance.judge import Right, right_answer
from ..tolerance.rounding import PRECISIONS
from .compare import UNANSWERED, changes, error_ratio, is_nearer, predict, quick_distance
from .hypothesis import Hypothesis
from .precision import Element
from .where import short_name

_OF_ERRING = 12.0  # bits: one run in some thousand may err
EVIDENCE = _OF_ERRING + 12.0  # some thousand hypotheses are tried
_BALL = (2.0 * np.pi * np.e) ** 0.5 / 2.0  # half the side of the box of a ball's volume, by its root mean square
READ_FROM = ("y", "y_again")  # the masks that a subject draws by itself


@dataclass(frozen=True)
class Explanation:
    """A hypothesis and what it explains.

    contradicted: outputs that it would change, and that came back right.
    refuted: outputs that it would change, and that came back wrong in another way.
    bits: for each output that it meets, how unlikely it is to do so by chance. Below `enough`, none is explained.
    """

    hypothesis: Hypothesis
    elements: frozenset[Element]
    contradicted: frozenset[Element]
    refuted: frozenset[Element]
    bits: Mapping[Element, float]
    enough: float

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

    def outdoes(self, other: "Explanation") -> bool:
        """Whether it meets the same numbers so much more nearly that the other one met them by chance."""
        if self is other or not other.elements <= self.bits.keys():
            return False
        more = sum(self.bits[element] - other.bits[element] for element in other.elements)
        return more > self.enough

    @property
    def outputs(self) -> frozenset[str]:
        return frozenset(name for _, name in self.elements)


def explanation(hypothesis: Hypothesis, answered: Sequence[Observed], faults: int) -> Explanation:
    """What the hypothesis explains, contradicts and refutes; nothing is explained on too little evidence.

    faults: how many known faults and halves of them could have been what came back.
    """
    elements, contradicted, shown = set[Element](), set[Element](), set[Element]()
    bits: dict[tuple[str, str, str], np.ndarray] = {}
    by_element: dict[Element, float] = {}
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
            by_element[one.case.id, name] = float(np.sum(found))
    enough = EVIDENCE if hypothesis.fault is None else _OF_ERRING + np.log2(max(faults, 1))
    if _evidence(bits, hypothesis.is_fitted) < enough:
        elements = set()
    enough += max((float(np.max(b)) for b in bits.values()), default=0.0) if hypothesis.is_fitted else 0.0
    return Explanation(
        hypothesis,
        frozenset(elements),
        frozenset(contradicted),
        frozenset(shown - elements),
        by_element,
        enough,
    )


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
    if is_fault and (np.any(np.isnan(got)) or not (np.any(usable) or np.all(np.isfinite(got)))):
        return np.full(1, EVIDENCE)
    if not np.any(usable):
        return np.zeros(1)
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
