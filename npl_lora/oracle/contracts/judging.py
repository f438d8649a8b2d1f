"""The verdict on what was answered to one case: what is right, what is allowed, and how far off it is."""

from collections.abc import Mapping

import numpy as np

from ..case import Case
from ..tolerance.judge import OutputVerdict, Right, judge, right_answer
from ..tolerance.measured import tighten
from ..tolerance.statistics import Distribution
from . import CONTRACTS

Rights = Mapping[str, Right | Distribution]
_KEPT = 64  # a contract has fewer cases in all dtypes together
_bounds: dict[int, tuple[Case, Rights, Rights]] = {}  # by the case's identity


def bounds(case: Case) -> tuple[Rights, Rights]:
    """The right answers with the derived bounds, and with the measured ones. The last cases' are kept: the diagnosis
    needs what the judge had."""
    kept = _bounds.get(id(case))
    if kept is None or kept[0] is not case:
        answer = CONTRACTS[case.contract].answer
        right = right_answer(case, answer)
        kept = _bounds[id(case)] = case, right, tighten(case, right, answer)
        while len(_bounds) > _KEPT:
            del _bounds[next(iter(_bounds))]
    return kept[1:]


def judge_case(case: Case, outputs: Mapping[str, np.ndarray]) -> dict[str, OutputVerdict]:
    """A verdict for every output of a case, as its contract judges."""
    contract = CONTRACTS[case.contract]
    if contract.judge is not None:
        return contract.judge(case, outputs)
    right, measured = bounds(case)
    if not all(np.isfinite(output.value).all() for output in right.values() if isinstance(output, Right)):
        raise OverflowError("the right answer is not finite")
    return judge(measured, outputs)
