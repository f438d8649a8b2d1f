"""The values alone: what an engine without a backward is asked, and what is ignored."""

from dataclasses import replace

import numpy as np
import pytest

from npl_lora.oracle import CONTRACTS, check
from npl_lora.oracle.case import widen
from npl_lora.oracle.check import check_case
from npl_lora.oracle.faults import FAULTS
from npl_lora.oracle.page import page
from npl_lora.oracle.subjects import Answer
from npl_lora.oracle.subjects.injected import Injected
from npl_lora.oracle.tolerance.judge import right_answer
from npl_lora.testing import asked, check_function, conforms

VALUES = {
    "lora_merge": {"W_merged", "W_unmerged"},
    "lora_init": {"A", "B"},
    "lora_dropout": {"y", "y_again", "y_eval"},
    "cross_entropy": {"loss"},
    "adapter_combine": {"delta"},
}
FLOATS = ("float64", "float32")


class Changed:
    """A right subject with its outputs changed, or with faults: change(case, outputs) -> outputs."""

    name = "changed"

    def __init__(self, change, *contracts, faults=()):
        self.change, self.contracts, self.right = change, contracts, Injected(*faults)

    def ask(self, case):
        outputs = self.right.ask(case).outputs
        return Answer(outputs=tuple(self.change(case, one) for one in outputs))

    def close(self):
        """Nothing runs."""


def values_alone(case, outputs):
    return {name: output for name, output in outputs.items() if name not in case.gradients(outputs)}


def rubbish_for_gradients(case, outputs):
    return {name: np.full(3, np.nan) if name in case.gradients(outputs) else t for name, t in outputs.items()}


def named(name):
    return next(fault for fault in FAULTS if fault.name == name)


@pytest.mark.parametrize("contract", sorted(CONTRACTS.keys() - {"train_steps"}))
def test_the_values_of_a_contract_are_what_is_no_gradient(contract):
    for case in CONTRACTS[contract].cases("float32"):
        whole = right_answer(Injected().question(case), CONTRACTS[contract].answer)
        alone = right_answer(replace(Injected().question(case), forward_only=True), CONTRACTS[contract].answer)
        assert set(alone) == VALUES.get(contract, {"y"})
        assert set(whole) - set(alone) == {name for name in whole if name[0] == "d" and name != "delta"}


@pytest.mark.parametrize("change", [values_alone, rubbish_for_gradients])
def test_a_subject_of_right_values_passes_and_only_then(change):
    subject = Changed(change, "lora_linear", "lora_merge", "lora_embedding", "lora_dropout", "lora_batched")
    alone = check(subject, dtypes=FLOATS, forward_only=True)
    assert [contract.verdict for contract in alone.contracts] == ["pass"] * 5
    assert alone.verdict_in_words == "pass, forward only"
    assert alone.as_json()["forward_only"] is True
    assert {*alone.contracts[0].cases[0].outputs} == {"y"}
    for contract in subject.contracts:
        whole = [check_case(c, subject.ask(c)) for c in CONTRACTS[contract].cases("float32")]
        assert {case.verdict for case in whole} == {"pass" if contract == "lora_merge" else "fail"}


def test_a_whole_check_says_nothing_of_it():
    report = check(Injected(), contract="lora_merge", dtypes=["float32"])
    assert report.verdict_in_words == "pass"
    assert "forward_only" not in report.as_json()


def test_a_missing_backward_is_a_failure_that_says_how_to_ask_less():
    hint = "; the values are right, and can be asked alone (--forward, forward_only)"

    def message(change, faults=()):
        case = CONTRACTS["lora_linear"].cases("float64")[0]
        return check_case(case, Changed(change, "lora_linear", faults=faults).ask(case)).message

    assert message(values_alone).endswith("; dB: missing (got y)" + hint)

    def some(case, outputs):
        return {**values_alone(case, outputs), "dx": outputs["dx"]}

    assert message(some) == "dA: missing (got y, dx); dB: missing (got y, dx)" + hint
    assert hint not in message(lambda case, outputs: {**some(case, outputs), "dx": -outputs["dx"]})
    assert hint not in message(lambda case, outputs: case.gradients(outputs))
    assert hint not in message(values_alone, faults=[named("S1")])
    assert hint not in message(rubbish_for_gradients)


@pytest.mark.parametrize(
    ("contract", "fault"),
    [("lora_linear", "S1"), ("lora_linear", "K1/y"), ("lora_merge", "M6"), ("lora_batched", "P1"), ("lora_mlp", "G1")],
)
@pytest.mark.parametrize("change", [values_alone, rubbish_for_gradients])
def test_a_fault_in_the_values_is_named(contract, fault, change):
    (report,) = check(Changed(change, contract, faults=[named(fault)]), dtypes=["float64"], forward_only=True).contracts
    assert report.verdict == "fail"
    assert report.diagnosis.ids[0] == named(fault).id
    assert named(fault).says in report.diagnosis.says


def test_a_mistake_that_no_fault_is_gets_its_sentence():
    subject = Changed(lambda case, outputs: {"y": outputs["y"] * 0.75}, "lora_linear")
    (report,) = check(subject, dtypes=["float64"], forward_only=True).contracts
    assert report.diagnosis.says == "every output: as if it were 0.75 times as large."


@pytest.mark.parametrize("fault", ["S5/dA", "B9"])
def test_a_fault_of_the_backward_is_not_looked_for(fault):
    assert check(Injected(named(fault)), contract="lora_linear", dtypes=FLOATS, forward_only=True).verdict == "pass"


def test_missing_and_unknown_values_are_failures_as_ever():
    for change, note in (
        (lambda case, outputs: case.gradients(outputs), "y: missing (got nothing)"),
        (lambda case, outputs: {"y": outputs["y"], "z": outputs["y"]}, "z: not an output (asked: y)"),
    ):
        (report,) = check(Changed(change, "lora_linear"), dtypes=["float64"], forward_only=True).contracts
        assert report.verdict == "fail"
        assert note in report.cases[0].message


def test_training_has_no_values_alone_and_is_not_asked():
    def change(case, outputs):
        raise AssertionError("asked")

    report = check(Changed(change, "train_steps"), dtypes=FLOATS, forward_only=True)
    assert report.verdict == "error"
    (contract,) = report.contracts
    assert contract.verdict == "absent"
    assert {case.message for case in contract.cases} == {
        "train_steps has no values alone: every step needs the gradients"
    }


def test_the_page_says_so():
    report = check(Changed(values_alone, "lora_linear"), dtypes=["float64"], forward_only=True)
    assert '<span class="pass">pass, forward only</span>' in page([report])


@pytest.mark.parametrize("contract", ["lora_linear", "lora_batched"])
def test_conforms_asks_the_values_alone(contract):
    @conforms(contract, dtypes=("float64",), forward_only=True)
    def engine(case):
        return values_alone(case, CONTRACTS[contract].answer(widen(case), case.config))

    @conforms(contract, dtypes=("float64",))
    def layer(case):
        return engine(case)

    assert all(check_function(engine, case).report.verdict == "pass" for case in asked(engine).cases())
    assert all(check_function(layer, case).report.verdict == "fail" for case in asked(layer).cases()[:2])


def test_conforms_refuses_a_contract_without_values():
    with pytest.raises(ValueError, match=r"^forward_only is True, expected False: train_steps has no values alone"):
        conforms("train_steps", forward_only=True)
