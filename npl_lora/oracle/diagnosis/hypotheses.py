"""All hypotheses about a contract: the faults of the catalogue, their halves, and the generated edits."""

from collections.abc import Iterable, Iterator

from ..case import Case
from ..faults import FAULTS
from ..faults.relevant import relevant_to
from .edits import edits, output_edits, question_edits
from .hypothesis import Hypothesis, halves_of_fault, of_fault


def hypotheses_for(cases: Iterable[Case]) -> Iterator[Hypothesis]:
    """Every hypothesis that can show in these cases of one contract. Simple ones come first."""
    cases = list(cases)
    contract = cases[0].contract
    relevant = relevant_to(contract, FAULTS)
    yield from (of_fault(contract, fault) for fault in relevant)
    for fault in relevant:
        yield from halves_of_fault(contract, fault)
    told = set[str]()
    for case in cases:
        for edit in edits(case):
            if edit.says not in told:
                told.add(edit.says)
                yield edit
    yield from question_edits(cases[0])
    yield from output_edits(cases[0])
