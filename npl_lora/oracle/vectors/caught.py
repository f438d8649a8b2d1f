"""Which faults of the catalogue a case would catch."""

from ..case import Case, widen
from ..contracts import CONTRACTS
from ..contracts.judging import judge_case
from ..faults import Fault
from ..faults.relevant import relevant_to
from ..subjects.injected import Injected
from ..tolerance.judge import OutputVerdict, Right, judge, right_answer
from ..tolerance.statistics import Distribution


def caught_by(case: Case) -> list[str]:
    """The names of the faults that a case shows, however their numbers are rounded: the error is more than twice what
    is allowed, or there is no answer at all."""
    contract = CONTRACTS[case.contract]
    right = right_answer(case, contract.answer) if contract.judge is None else None
    return [fault.name for fault in relevant_to(case.contract) if _shows(case, fault, right)]


def _shows(case: Case, fault: Fault, right: dict[str, Right | Distribution] | None) -> bool:
    wide = case.with_arrays(widen(case))
    answer = Injected(fault).ask(wide)
    if answer.outputs is None:
        return True
    outputs = answer.outputs[0]
    verdicts = judge_case(case, outputs) if right is None else judge(right, outputs)
    return any(o.verdict == "fail" and not _near(o) for o in verdicts.values())


def _near(verdict: OutputVerdict) -> bool:
    return verdict.error is not None and verdict.error <= 2 * (verdict.allowed or 0)
