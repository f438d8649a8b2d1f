"""Mistakes as people make them: the check says what is wrong, and nothing that is not."""

import numpy as np
import pytest
from light import light
from oracle.natural import MISTAKES

from npl_lora.oracle import check
from npl_lora.oracle.case import widen
from npl_lora.oracle.subjects import Answer


class Mistaken:
    """A subject in this process, from answer(arrays, config) in float64."""

    def __init__(self, name, contract, answer):
        self.name, self.contracts, self.answer = name, (contract,), answer

    def ask(self, case):
        outputs = self.answer(widen(case), case.config)
        return Answer(outputs=({name: np.asarray(t, dtype=case.dtype) for name, t in outputs.items()},))

    def close(self):
        pass


IDS = [f"{contract}, {what}" for contract, what, *_ in MISTAKES]


@pytest.mark.parametrize(("contract", "what", "answer", "says", "never"), light(MISTAKES, 1), ids=IDS)
def test_a_natural_mistake_is_told(contract, what, answer, says, never):
    [report] = check(Mistaken(what, contract, answer)).contracts
    assert report.verdict == "fail"
    assert says in report.diagnosis.says
    assert not [word for word in never if word in report.diagnosis.says]
