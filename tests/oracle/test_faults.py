"""The catalogue: every fault fails where it shows, and the diagnosis names it, and only it, first."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npl_lora.oracle import CONTRACTS, DTYPES, check
from npl_lora.oracle.definition import RIGHT
from npl_lora.oracle.diagnosis import Observed, catalogue
from npl_lora.oracle.faults import FAULTS
from npl_lora.oracle.faults.inject import Injected, caught_by
from npl_lora.oracle.judge import right_answer

ONE_ANSWER = [name for name, contract in CONTRACTS.items() if contract.judge is None]

# Faults that come to the same in a contract: what is named first is the other one, and both are listed.
EQUIVALENT = {
    ("lora_merge", "S13"): "S2",
    ("train_steps", "B3"): "B2",
}

# What float16's own rounding hides in the shipped cases. (The other dtypes see all.)
BELOW_FLOAT16 = {("lora_attention", "A6"), ("lora_mlp", "B4/tanh"), ("lora_mlp", "G1"), ("lora_mlp", "G1/exact")}


def relevant(contract):
    return [f for f in FAULTS if f.parts.keys() & catalogue.parts_used(contract) or contract in f.answers]


def shown(contract):
    """The faults that some case of the contract shows, in float64."""
    caught = {name for case in CONTRACTS[contract].cases("float64") for name in caught_by(case)}
    return [fault for fault in relevant(contract) if fault.name in caught]


SHOWN = [(contract, fault) for contract in ONE_ANSWER for fault in shown(contract)]
IDS = [f"{contract}-{fault.name}" for contract, fault in SHOWN]


def report_of(contract, *faults, dtypes=DTYPES):
    (report,) = check(Injected(*faults), contract=contract, dtypes=dtypes).contracts
    return report


def test_the_catalogue_is_large_and_every_entry_whole():
    assert len({fault.id for fault in FAULTS}) >= 60
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    for fault in FAULTS:
        assert fault.says
        assert not fault.says.endswith(".")
        assert all((fault.wrong, fault.right, fault.hidden, fault.source)), fault.name
        assert fault.wrong != fault.right
        assert fault.parts or fault.answers
        assert fault.parts.keys() <= vars(RIGHT).keys(), fault.name
        assert fault.answers.keys() <= CONTRACTS.keys(), fault.name


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)
def test_some_case_shows_every_fault(fault):
    judged_apart = [name for name in CONTRACTS if name not in ONE_ANSWER]
    assert any(fault is f for _, f in SHOWN) or any(name in fault.answers for name in judged_apart)


@pytest.mark.parametrize(("contract", "fault"), SHOWN, ids=IDS)
def test_every_fault_fails_and_is_named_first(contract, fault):
    report = report_of(contract, fault)
    assert report.verdict == "fail"
    first = EQUIVALENT.get((contract, fault.name), fault.id)
    assert report.diagnosis.ids[0] == first
    assert fault.id in report.diagnosis.ids
    assert set(report.diagnosis.ids) <= {first, fault.id} | {a for (c, a), b in EQUIVALENT.items() if b == fault.id}
    assert fault.says in report.diagnosis.says


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("contract", "fault"), SHOWN, ids=IDS)
def test_every_fault_fails_in_every_dtype_alone(contract, fault, dtype):
    report = report_of(contract, fault, dtypes=[dtype])
    hidden = dtype == "float16" and (contract, fault.name) in BELOW_FLOAT16
    assert report.verdict == ("pass" if hidden else "fail")


@pytest.mark.parametrize("contract", ONE_ANSWER)
def test_no_fault_is_no_fault(contract):
    report = report_of(contract)
    assert report.verdict == "pass"
    assert report.diagnosis.ids == ()


def observed(contract, *faults, dtypes=("float64", "float32")):
    subject, found = Injected(*faults), []
    for dtype in dtypes:
        for case in CONTRACTS[contract].cases(dtype):
            answer = subject.ask(case)
            outputs = answer.outputs[0] if answer.outputs else None
            right = right_answer(case, CONTRACTS[contract].answer)
            wrong = [n for n, r in right.items() if outputs and not np.all(np.abs(outputs[n] - r.value) <= r.allowed)]
            found.append(Observed(case, right, outputs, tuple(wrong)))
    return found


# A fault that two others amount to is explained by them, rightly, when it is not in the catalogue itself.
SUM_OF_OTHERS = {"S4"}


@pytest.mark.parametrize(
    ("contract", "fault"), [pair for pair in SHOWN if pair[0] in ("lora_linear", "lora_embedding", "cross_entropy")]
)
def test_a_fault_that_is_not_in_the_catalogue_is_not_claimed(contract, fault):
    others = [other for other in FAULTS if other.id != fault.id]
    found = catalogue.matches(observed(contract, fault), others)
    if fault.id not in SUM_OF_OTHERS:
        assert found == []


PAIRS = [
    (contract, *pair)
    for contract in ("lora_linear", "lora_merge", "lora_embedding", "cross_entropy")
    for pair in itertools.combinations([f for c, f in SHOWN if c == contract], 2)
]


@given(pair=st.sampled_from(PAIRS))
def test_two_faults_are_both_named_unless_one_explains_all(pair):
    contract, *faults = pair
    at = observed(contract, *faults)
    if not any(one.failed and one.outputs is not None for one in at):
        return  # the two cancel, or break in every case
    found = catalogue.matches(at)
    assert found, [fault.name for fault in faults]
    names = [{fault.name for fault in match} for match in found]
    assert len(found[0]) == 1 or {fault.name for fault in faults} in names
