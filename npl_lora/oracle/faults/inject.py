"""Subjects that have faults of the catalogue, and which faults a case would catch."""

import numpy as np

from ..case import Case, widened
from ..contracts import CONTRACTS
from ..judge import judge_output, right_answer
from ..subjects import Answer
from . import FAULTS, Fault, wrong_answer


class Injected:
    """The definition with these faults in it, computed in the case's own dtype. With none it is a right subject."""

    def __init__(self, *faults: Fault) -> None:
        self.name = " and ".join(fault.name for fault in faults) or "no fault"
        self.contracts = tuple(CONTRACTS)
        self._faults = faults

    def ask(self, case: Case) -> Answer:
        try:
            with np.errstate(all="ignore"):
                outputs = wrong_answer(case.contract, *self._faults)(case.arrays, case.config)
        except (ValueError, IndexError) as error:
            return Answer(error=str(error))
        return Answer(outputs=({name: np.asarray(output) for name, output in outputs.items()},))

    def close(self) -> None:
        """Nothing runs."""


def caught_by(case: Case) -> list[str]:
    """The names of the faults that a case shows, however their numbers are rounded: the error is more than twice what
    is allowed, or there is no answer at all."""
    right = right_answer(case, CONTRACTS[case.contract].answer)
    return [fault.name for fault in FAULTS if _shows(case, fault, right)]


def _shows(case: Case, fault: Fault, right: dict) -> bool:
    try:
        with np.errstate(all="ignore"):
            wrong = wrong_answer(case.contract, fault)(widened(case), case.config)
    except (ValueError, IndexError):
        return True
    for name, expected in right.items():
        verdict = judge_output(expected, np.asarray(wrong[name]))
        if verdict.verdict == "fail" and not (
            verdict.error is not None and verdict.error <= 2 * (verdict.allowed or 0)
        ):
            return True
    return False
