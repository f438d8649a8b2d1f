"""Known deviations: excused when they fail, an error when they do not."""

import pytest

from npl_lora.oracle import CONTRACTS, CaseReport, ContractReport, Report, check
from npl_lora.oracle.deviations import DeviationsError, excuse, read_deviations
from npl_lora.oracle.diagnosis import Diagnosis
from npl_lora.oracle.faults import FAULTS
from npl_lora.oracle.subjects.injected import Injected

CASES = [case.id for case in CONTRACTS["lora_merge"].cases("float32")]


def checked(*names, contract="lora_merge"):
    faults = [fault for fault in FAULTS if fault.name in names]
    assert len(faults) == len(names)
    return check(Injected(*faults), contract=contract, dtypes=["float32"])


def verdicts(report):
    return {case.id: case.verdict for contract in report.contracts for case in contract.cases}


def test_a_fault_that_explains_everything_excuses_everything():
    report = checked("S1")
    assert report.verdict == "fail"
    excused = excuse(report, {"S1": "our scale is alpha"})
    assert excused.verdict == "pass"
    assert excused.unexpected == ()
    assert set(verdicts(excused).values()) == {"expected"}
    (contract,) = excused.contracts
    assert contract.verdict == "expected"
    assert all("(expected: our scale is alpha)" in case.message for case in contract.cases)
    body = excused.as_json()
    assert body["contracts"]["lora_merge"]["cases"][0]["verdict"] == "expected"
    assert "unexpected" not in body


def test_a_fault_that_explains_some_of_it_excuses_nothing():
    """Two faults, one of them known: the other may not hide behind it."""
    report = checked("S1", "M4")
    (match, *_) = report.contracts[0].diagnosis.matches
    assert len(match) == 2
    for one in match:
        assert excuse(report, {one: "known"}).verdict == "fail"
        assert set(verdicts(excuse(report, {one: "known"})).values()) == {"fail"}
    both = excuse(report, dict.fromkeys(match, "known"))
    assert both.verdict == "pass"


def test_a_case_is_excused_by_its_id():
    report = checked("S3")  # shows with rslora alone
    failing = [id_ for id_, verdict in verdicts(report).items() if verdict == "fail"]
    assert failing == ["lora_merge/rslora/float32", "lora_merge/exact-fan-in-fan-out-rslora/float32"]
    assert excuse(report, {failing[0]: "no rslora here"}).verdict == "fail"
    excused = excuse(report, dict.fromkeys(failing, "no rslora here"))
    assert excused.verdict == "pass"
    assert excused.contracts[0].verdict == "pass"
    assert verdicts(excused)[failing[0]] == "expected"


def test_one_that_passes_after_all_is_an_error():
    excused = excuse(checked(), {CASES[0]: "we round twice"})
    assert excused.verdict == "fail"
    assert excused.unexpected == (f"{CASES[0]} passes, but was expected to fail: we round twice",)
    assert excused.as_json()["unexpected"] == list(excused.unexpected)
    assert set(verdicts(excused).values()) == {"pass"}


@pytest.mark.parametrize("id_", ["S1", "S99", "lora_merge/no-such-case/float32", "lora_linear/tokens/float32", ""])
def test_one_that_matches_nothing_is_an_error(id_):
    excused = excuse(checked(), {id_: "who knows"})
    assert excused.verdict == "fail"
    assert "matches no failure, but was expected to fail: who knows" in excused.unexpected[0]


def test_an_absent_case_is_not_excused():
    report = Report("mine", (ContractReport("c", (CaseReport("c/a/float32", "float32", "absent", "not yet"),)),))
    excused = excuse(report, {"c/a/float32": "not yet"})
    assert excused.unexpected == ("c/a/float32 is absent, but was expected to fail: not yet",)


def test_a_report_that_could_not_be_made_stays_what_it_is():
    report = Report("mine.py", problem="no such file")
    assert excuse(report, {"S1": "why"}) is report


def test_others_that_explain_the_same_need_not_be_listed():
    """A diagnosis that cannot tell two faults apart: either of them excuses."""
    case = CaseReport("c/a/float32", "float32", "fail", "wrong")
    report = Report("mine", (ContractReport("c", (case,), Diagnosis(("S1", "S2"), "", (("S1",), ("S2",)))),))
    assert excuse(report, {"S2": "ours"}).verdict == "pass"
    assert excuse(report, {"S1": "ours", "S2": "ours"}).unexpected != ()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("known.json", '{"S1": "why", "lora_merge/plain/float16": "because"}'),
        ("known.toml", 'S1 = "why"\n"lora_merge/plain/float16" = "because"\n'),
    ],
)
def test_the_file_is_json_or_toml(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_deviations(tmp_path / name) == {"S1": "why", "lora_merge/plain/float16": "because"}


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("known.json", '{"S1": ""}', "'S1' has no reason"),
        ("known.json", '{"S1": "  "}', "'S1' has no reason"),
        ("known.json", '{"S1": null}', "'S1' has no reason"),
        ("known.json", '{"S1": ["why"]}', "'S1' has no reason"),
        ("known.json", '["S1"]', "the file is list in JSON"),
        ("known.json", "S1", "the file is not JSON"),
        ("known.json", '{"S1": "a", "S1": "b"}', "has a name twice"),
        ("known.json", "[" * 100_000, "is not JSON"),
        ("known.toml", "[S1]\nreason = 'why'", "'S1' has no reason"),
        ("known.toml", "S1 = 'a'\nS1 = 'b'", "is not TOML"),
        ("known.toml", b"\xff", "is not TOML"),
        ("known.toml", "9" * 9000 + ".S1 = 'why'", "has no reason"),
        ("known.json", '{"' + "9" * 9000 + '": 0}', "has no reason"),
        ("known.toml", None, "No such file"),
    ],
)
def test_a_file_without_reasons_is_refused_with_a_sentence(tmp_path, name, text, sentence):
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DeviationsError, match=sentence) as error:
        read_deviations(tmp_path / name)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000
