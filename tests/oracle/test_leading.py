"""A subject that takes x of three axes alone, or of two, is asked that, if it says so."""

import math

import numpy as np
import pytest

from npl_lora.oracle import CONTRACTS
from npl_lora.oracle.case import widen
from npl_lora.oracle.check import check
from npl_lora.oracle.faults import FAULTS, wrong_answer
from npl_lora.oracle.leading import with_axes
from npl_lora.oracle.subjects.in_process import ask
from npl_lora.oracle.tolerance.judge import right_answer
from npl_lora.testing import check_function

LEADING = [name for name, contract in CONTRACTS.items() if contract.leading]


class Only:
    """A subject of one contract that takes x of so many axes and raises for others."""

    name = "mine"

    def __init__(self, axes, error, contract, faults):
        self.contracts = (contract,)
        self._axes, self._error, self._answer = axes, error, wrong_answer(contract, *faults)

    def ask(self, case):
        return ask(self._function, case)

    def _function(self, case):
        if case["x"].ndim != self._axes:
            raise self._error
        return self._answer(widen(case), case.config)


def only(axes, error, contract="lora_linear", faults=()):
    (report,) = check(Only(axes, error, contract, faults), dtypes=["float64"]).contracts
    return report


@pytest.mark.parametrize("contract", LEADING)
@pytest.mark.parametrize("axes", [2, 3])
def test_it_is_asked_every_case_with_as_many_axes(contract, axes):
    report = only(axes, NotImplementedError(), contract)
    assert {case.verdict for case in report.cases} == {"pass"}
    said = f"asked with x of {axes} axes, since others are not supported"
    others = [case["x"].ndim != axes for case in CONTRACTS[contract].cases("float64")]
    assert [said in case.message for case in report.cases] == others


@pytest.mark.parametrize("error", [NotImplementedError(), ValueError("not enough values to unpack")])
def test_its_fault_is_named(error):
    (fault,) = (fault for fault in FAULTS if fault.name == "S1")
    assert only(3, error, faults=[fault]).diagnosis.ids == ("S1",)


def test_one_that_raises_is_told_what_to_raise():
    report = only(3, ValueError("not enough values to unpack"))
    assert report.verdict == "fail"
    assert report.diagnosis.ids == ()
    assert "no answer wherever x has not 3 axes" in report.diagnosis.says
    assert "NotImplementedError" in report.diagnosis.says


class WithoutRslora(Only):
    def _function(self, case):
        if case.config["use_rslora"]:
            raise ValueError("what is rsLoRA?")
        return self._answer(widen(case), case.config)


def test_one_that_raises_for_another_reason_is_not_told_so():
    """In dora_linear, the one case with x of three axes is the one with rsLoRA."""
    (report,) = check(WithoutRslora(0, None, "dora_linear", ()), dtypes=["float64"]).contracts
    assert report.verdict == "fail"
    assert report.diagnosis.says == ""


def test_a_test_of_ones_own_suite_is_told_so_too():
    subject = Only(3, NotImplementedError(), "lora_linear", [fault for fault in FAULTS if fault.name == "S1"])
    checked = check_function(subject._function, CONTRACTS["lora_linear"].cases("float64")[0])
    assert checked.report.message.endswith("asked with x of 3 axes, since others are not supported")
    assert checked.diagnosis.ids[0] == "S1"


def test_one_that_supports_nothing_stays_absent():
    assert only(7, NotImplementedError("seven alone")).verdict == "absent"


@pytest.mark.parametrize("contract", [name for name in CONTRACTS if name not in LEADING])
def test_other_contracts_are_asked_as_they_are(contract):
    for case in CONTRACTS[contract].cases("float64"):
        assert with_axes(case, 2) is with_axes(case, 3) is None


@pytest.mark.parametrize("contract", LEADING)
def test_the_right_answer_is_the_same_but_for_its_axes(contract):
    for case in CONTRACTS[contract].cases("float64"):
        right = right_answer(case, CONTRACTS[contract].answer)
        for axes in (2, 3):
            other = with_axes(case, axes) or case
            assert other["x"].ndim == axes
            for name, found in right_answer(other, CONTRACTS[contract].answer).items():
                assert found.value.size == math.prod(right[name].value.shape)
                np.testing.assert_allclose(found.value.ravel(), right[name].value.ravel(), rtol=1e-13, atol=1e-13)
