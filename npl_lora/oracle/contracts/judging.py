"""The verdict on what was answered to one case: what is right, what is allowed, and how far off it is."""

from collections.abc import Mapping

import numpy as np

from ..case import Case
from ..tolerance.judge import OutputVerdict, Right, judge, right_answer
from ..tolerance.measured import tighten
from . import CONTRACTS


def judge_case(case: Case, outputs: Mapping[str, np.ndarray]) -> dict[str, OutputVerdict]:
    """A verdict for every output of a case, as its contract judges."""
    contract = CONTRACTS[case.contract]
    if contract.judge is not None:
        return contract.judge(case, outputs)
    right = right_answer(case, contract.answer)
    if not all(np.isfinite(output.value).all() for output in right.values() if isinstance(output, Right)):
        raise OverflowError("the right answer is not finite")
    return judge(tighten(case, right, contract.answer), outputs)
