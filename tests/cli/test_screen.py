"""The screen where stdout is no terminal: the order of what it prints, and the output that it calls the worst."""

import pytest

from npl_lora.cli._screen import Screen
from npl_lora.oracle.page import page
from npl_lora.oracle.report import CaseReport, ContractReport, Diagnosis, Report
from npl_lora.oracle.tolerance.judge import OutputVerdict

LONG = "dB is wrong " * 30 + "everywhere."


def contract(verdict, name="lora_merge", says="", message="", **outputs):
    case = CaseReport(f"{name}/plain/float32", "float32", verdict, message, outputs)
    return ContractReport(name, (case,), Diagnosis(says=says, ids=("S5",) if says else ()))


def shown(capsys, *contracts, **more):
    Screen().show(Report("mine.py", contracts, **more))
    return capsys.readouterr().out


def test_what_is_wrong_comes_before_the_table_and_remarks_after_it(capsys):
    passing, absent = contract("pass"), contract("absent", "lora_mlp", message="not yet")
    lines = shown(
        capsys, passing, contract("fail", "lora_linear", LONG), absent, unexpected=("S3 passes",)
    ).splitlines()
    assert lines[:3] == ["mine.py  fail", f"lora_linear: {LONG}", "unexpected: S3 passes"]
    assert lines[4].split() == ["contract", "verdict", "cases", "worst", "output", "error", "allowed"]
    assert lines[-2] == "lora_mlp: 1 not supported: not yet"


def test_of_a_passing_target_there_is_the_table_alone(capsys):
    lines = shown(capsys, contract("pass")).split("\n")
    assert lines[0] == "mine.py  pass"
    assert [line.split()[0] for line in lines[1:] if line.strip(" ─")] == ["contract", "lora_merge"]


def test_a_failure_without_a_diagnosis_is_its_first_case(capsys):
    assert "\nlora_merge: In plain, float32: ValueError: no\n" in shown(
        capsys, contract("fail", message="ValueError: no")
    )


def test_where_some_cases_pass_they_are_counted_by_dtype(capsys):
    verdicts = {"float64": "fail fail fail", "float32": "fail pass pass", "float16": "pass pass absent"}
    cases = tuple(
        CaseReport(f"lora_mlp/{i}/{dtype}", dtype, verdict, "y: wrong (1 of 2 wrong)" if verdict == "fail" else "")
        for dtype, each in verdicts.items()
        for i, verdict in enumerate(each.split())
    )
    counts = "Passed: float64 0/3, float32 2/3, float16 2/2."
    first = "In 0, float64: y: wrong (1 of 2 wrong) (and 3 more cases)."
    assert f"\nlora_mlp: {first} {counts}\n" in shown(capsys, ContractReport("lora_mlp", cases))
    named = ContractReport("lora_mlp", cases, Diagnosis(says="The activation is another one.", ids=("G1",)))
    assert f"\nlora_mlp: The activation is another one. {counts}\n" in shown(capsys, named)
    assert named.as_json()["counts"] == {
        "float64": {"passed": 0, "asked": 3},
        "float32": {"passed": 2, "asked": 3},
        "float16": {"passed": 2, "asked": 2},
    }
    assert f"4 of 9 cases fail. {counts} First: lora_mlp/0/float64: y: wrong" in page([Report("mine.py", (named,))])


WRONG = {
    "y": OutputVerdict("pass", 9e-8, 1e-7),
    "dx": OutputVerdict("fail", 1e-6, 0.0),  # no error is allowed, but this one is small
    "dA": OutputVerdict("fail", 0.5, 1e-7),
    "dB": OutputVerdict("fail", 0.25, 1e-7),
}


@pytest.mark.parametrize(
    ("verdict", "outputs", "worst"),
    [
        ("fail", WRONG, "dA, float32 5.0e-01 1.0e-07"),
        ("fail", {**WRONG, "dW": OutputVerdict("fail", None, None, "dW is missing")}, "dW, float32 - -"),
        ("pass", {"y": WRONG["y"], "dx": OutputVerdict("pass", 1e-3, 1.0)}, "y, float32 9.0e-08 1.0e-07"),
    ],
)
def test_the_worst_output_is_the_one_furthest_off(capsys, verdict, outputs, worst):
    (row,) = (line for line in shown(capsys, contract(verdict, **outputs)).splitlines() if worst[:3] in line)
    assert " ".join(row.split()).endswith(worst)


@pytest.mark.parametrize("others", [(), ("pass",), ("fail",), ("expected",), ("fail", "expected", "pass")])
def test_what_is_not_supported_is_said_with_every_verdict(capsys, others):
    verdicts = enumerate((*others, "absent", "absent"))
    cases = tuple(CaseReport(f"lora_mlp/{i}/float32", "float32", verdict, "so it is") for i, verdict in verdicts)
    out = shown(capsys, ContractReport("lora_mlp", cases))
    assert "\nlora_mlp: 2 not supported: so it is\n" in out
    assert ("\nlora_mlp: 1 wrong as expected: " in out) == ("expected" in others)


def test_every_reason_for_which_cases_are_not_supported_is_counted(capsys):
    messages = ("no rsLoRA", "no dropout", "no rsLoRA")
    cases = tuple(CaseReport(f"lora_mlp/{i}/float32", "float32", "absent", text) for i, text in enumerate(messages))
    lines = shown(capsys, ContractReport("lora_mlp", cases)).splitlines()
    assert lines[-2] == "lora_mlp: 3 not supported: no rsLoRA (2); no dropout (1)"
