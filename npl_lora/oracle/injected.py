"""Subjects that have faults of the catalogue, and which faults a case would catch."""

from typing import Any

import numpy as np

from ..layers import dropout_mask
from .case import Case, widened
from .check import judge_case
from .contracts import CONTRACTS
from .diagnosis.catalogue import relevant_to
from .dtypes import computable, dtype_named
from .faults import Fault, wrong_answer
from .judge import OutputVerdict, Right, judge, right_answer
from .statistics import Distribution
from .subjects import Answer


class Injected:
    """The definition with these faults in it, computed in the case's own dtype. With none it is a right subject."""

    def __init__(self, *faults: Fault, seed: int = 0) -> None:
        self.name = " and ".join(fault.name for fault in faults) or "no fault"
        self.contracts = tuple(CONTRACTS)
        self._faults = faults
        self._rng = np.random.default_rng(seed)

    def ask(self, case: Case) -> Answer:
        try:
            with np.errstate(all="ignore"):
                asked = self.question(case)
                outputs = wrong_answer(case.contract, *self._faults)(computable(asked.arrays), case.config)
                numbers = {name: self._numbers(output) for name, output in outputs.items()}
                return Answer(outputs=({name: t.astype(dtype_named(case.dtype)) for name, t in numbers.items()},))
        except (ValueError, IndexError) as error:
            return Answer(error=str(error))

    def question(self, case: Case) -> Case:
        """The case with what a subject draws for itself, drawn."""
        settle = CONTRACTS[case.contract].settle
        if settle is None:
            return case
        shown = settle(case, {})
        masks = {
            name: dropout_mask(shown[name].shape, case.config["p"], self._rng, np.float32).astype(shown[name].dtype)
            for name in shown.arrays.keys() - case.arrays.keys()
        }
        return case.with_arrays(masks)

    def _numbers(self, output: Any) -> np.ndarray:
        return output.draw(self._rng) if isinstance(output, Distribution) else np.asarray(output)

    def close(self) -> None:
        """Nothing runs."""


def caught_by(case: Case) -> list[str]:
    """The names of the faults that a case shows, however their numbers are rounded: the error is more than twice what
    is allowed, or there is no answer at all."""
    contract = CONTRACTS[case.contract]
    right = right_answer(case, contract.answer) if contract.judge is None else None
    return [fault.name for fault in relevant_to(case.contract) if _shows(case, fault, right)]


def _shows(case: Case, fault: Fault, right: dict[str, Right | Distribution] | None) -> bool:
    wide = case.with_arrays(widened(case))
    answer = Injected(fault).ask(wide)
    if answer.outputs is None:
        return True
    outputs = answer.outputs[0]
    verdicts = judge_case(case, outputs) if right is None else judge(right, outputs)
    return any(o.verdict == "fail" and not _near(o) for o in verdicts.values())


def _near(verdict: OutputVerdict) -> bool:
    return verdict.error is not None and verdict.error <= 2 * (verdict.allowed or 0)
