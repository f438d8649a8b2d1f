"""The matrix as data and as Markdown: the words, what is written, and that the README shows what was recorded."""

import json
import re
import tomllib
from fnmatch import fnmatchcase
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import npl_lora
from npl_lora.cli import main
from npl_lora.cli import matrix as command
from npl_lora.oracle import CONTRACTS, DTYPES
from npl_lora.oracle.libraries import known
from npl_lora.oracle.libraries import library as rows
from npl_lora.oracle.libraries.library import Library, Reason
from npl_lora.oracle.libraries.matrix import cell, column, document, known_throughout, matrix, remarks, summary, table
from npl_lora.oracle.libraries.record import update_record
from npl_lora.oracle.libraries.table import LIBRARIES
from npl_lora.oracle.report import LAYER, CaseReport, ContractReport, Report
from npl_lora.oracle.subjects import TargetError
from npl_lora.oracle.subjects.shipped import open_subject

ROOT = Path(npl_lora.__file__).parents[1]
EXAMPLES = ROOT / "examples"
RIGHT, WRONG = (str(EXAMPLES / f"{name}.py") for name in ("my_lora", "my_lora_with_a_fault"))
FILES = sorted(file.stem for file in Path(known.__file__).parent.glob("*.py") if file.stem != "__init__")
KNOWN = {
    f"{name}.{constant}": reason
    for name in FILES
    for constant, reason in vars(import_module(f"{known.__name__}.{name}")).items()
    if isinstance(reason, Reason)
}
RECORDED = json.loads((EXAMPLES / "conformance.json").read_text(encoding="utf-8"))


def report(*cases):
    """A report of loralib on lora_linear: (case, verdict) pairs."""
    cases = tuple(CaseReport(f"lora_linear/{name}", "float32", verdict, "why") for name, verdict in cases)
    return Report("loralib", (ContractReport("lora_linear", cases),))


def library(verdicts):
    """loralib, with these for what is known of it."""
    return Library("loralib", ("loralib", "torch"), verdicts)


FAULT, CONVENTION = Reason("fault", "it is wrong"), Reason("convention", "it is another")


@pytest.mark.parametrize(
    ("entries", "cases", "word"),
    [
        ({}, [("a", "pass"), ("b", "absent")], "pass"),
        ({}, [("a", "absent")], "absent"),
        ({}, [("a", "fail"), ("b", "pass")], "fail"),
        ({"*/a": ("fail", FAULT)}, [("a", "fail"), ("b", "pass")], "fault"),
        ({"*/a": ("fail", FAULT)}, [("a", "fail"), ("b", "fail")], "fail"),
        ({"*/a": ("fail", FAULT)}, [("a", "pass")], "pass"),
        ({"*/a": ("fail", FAULT)}, [("a", "absent")], "absent"),
        ({"*/a": ("fail", CONVENTION)}, [("a", "fail"), ("b", "pass")], "convention"),
        ({"*/a": ("fail", CONVENTION), "*": ("fail", FAULT)}, [("a", "fail"), ("b", "fail")], "fault"),
        ({"*": ("pass", CONVENTION)}, [("a", "pass"), ("b", "absent")], "convention"),
        ({"*": ("pass", CONVENTION)}, [("a", "fail")], "fail"),
        ({"*": ("absent", FAULT)}, [("a", "fail")], "fail"),
    ],
)
def test_the_word_of_a_cell(entries, cases, word):
    (contract,) = report(*cases).contracts
    got = cell(contract, library(entries))
    assert got["verdict"] == word
    assert got["passed"] == sum(verdict == "pass" for _, verdict in cases)
    assert got["asked"] == sum(verdict != "absent" for _, verdict in cases)
    assert bool(got["unknown"]) == (word == "fail")


def test_the_first_pattern_that_matches_counts():
    loralib = library({"x/a/*": ("fail", FAULT), "x/*": ("absent", None)})
    assert loralib.verdict("x/a/float32") == ("fail", FAULT)
    assert loralib.verdict("x/b/float32") == ("absent", None)
    assert loralib.verdict("y/a/float32") == ("pass", None)
    assert Library("nobody", ()).verdict("x/a/float32") == ("pass", None)


@pytest.mark.parametrize(("verdict", "status"), [("pass", True), ("fail", False)])
def test_a_failure_that_is_not_known_is_said(verdict, status):
    whole = matrix({"loralib": column(report(("a", verdict)), Library("loralib", ()))})
    assert known_throughout(whole) == status
    assert f"| lora_linear | {verdict} " in table(whole)


def test_what_a_layer_is_asked_is_a_row_of_the_table_and_not_of_the_readme():
    (contract,) = report(("a", "pass")).contracts
    layer = ContractReport(LAYER, (CaseReport("layer/saved/any", "any", "pass", ""),))
    whole = matrix({"loralib": column(Report("loralib", (layer, contract)), Library("loralib", ()))})
    assert "| layer | pass 1/1 |" in table(whole)
    assert "*layer* is what" in table(whole)
    assert "layer |" not in summary(whole)
    without = matrix({"loralib": column(report(("a", "pass")), Library("loralib", ()))})
    assert "layer" not in table(without)


def test_every_verdict_has_a_reason_and_every_pattern_a_case():
    cases = [case.id for contract in CONTRACTS.values() for dtype in DTYPES for case in contract.cases(dtype)]
    for row in LIBRARIES.values():
        for pattern, (verdict, reason) in row.verdicts.items():
            assert verdict in ("pass", "fail", "absent")
            assert verdict == "pass" or reason is not None
            assert any(fnmatchcase(case, pattern) for case in cases), pattern


def test_every_fault_and_convention_has_an_example():
    for name, reason in KNOWN.items():
        assert (reason.kind == "absent") == (not reason.example) == (not reason.prints), name


def test_every_known_reason_is_in_the_table():
    used = {reason for row in LIBRARIES.values() for reason in row.reasons}
    assert {name for name, reason in KNOWN.items() if reason not in used} == set()


def test_every_library_has_its_file_and_its_extra_with_pinned_versions():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for name, row in LIBRARIES.items():
        assert find_spec(row.module) is not None
        pinned = {re.fullmatch(r"([a-z0-9-]+)(\[cpu\])?==[0-9.]+", package)[1] for package in extras[name]}
        assert pinned == set(row.distributions)
    assert extras["matrix"] == [f"npl-lora[{','.join(LIBRARIES)}]"]
    assert sorted(name for name, row in LIBRARIES.items() if row.verdicts) == FILES


def test_the_readme_shows_what_was_recorded():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = readme.split("<!-- matrix -->\n")[1].split("<!-- /matrix -->")[0]
    assert shown == summary(RECORDED)
    assert table(RECORDED) in document(RECORDED)
    assert (EXAMPLES / "conformance.md").read_text(encoding="utf-8") == document(RECORDED)


def test_what_was_recorded_is_what_is_known():
    """The reasons in the record are those of the package, word for word; no failure was unknown."""
    assert known_throughout(RECORDED)
    changed = " ".join(sorted({*RECORDED["libraries"]} ^ {*LIBRARIES}))
    record = f"npl-lora matrix {changed} --json examples/conformance.json && python tests/record_readme.py"
    assert list(RECORDED["libraries"]) == list(LIBRARIES), f"the record has not the table's columns: {record}"
    reasons = {(r.kind, r.sentence, r.example, r.prints) for r in KNOWN.values()}
    for library in RECORDED["libraries"].values():
        shown = [reason for c in library["contracts"].values() for reason in c["reasons"]] + library["beyond"]
        assert {tuple(reason.values()) for reason in shown} <= reasons


UNKNOWN = "lora_linear fails in a way that is not known; npl-lora check loralib says why"


@pytest.mark.parametrize(
    ("entries", "cases", "sentences"),
    [
        ({}, [("a", "pass"), ("b", "absent")], []),
        ({"*/a": ("fail", FAULT)}, [("a", "fail"), ("b", "pass")], []),
        ({}, [("a", "fail"), ("b", "fail")], [UNKNOWN]),
        (
            {"*/b": ("absent", FAULT), "*": ("fail", FAULT)},
            [("a", "pass"), ("b", "pass"), ("c", "fail"), ("d", "pass")],
            [
                'the entry "it is wrong" is stale: lora_linear/a, one of 2, is pass now, not fail',
                'the entry "it is wrong" is stale: lora_linear/b is pass now, not absent',
            ],
        ),
        (
            {"*": ("pass", CONVENTION)},
            [("a", "absent"), ("b", "fail")],
            [UNKNOWN, 'the entry "it is another" is stale: lora_linear/a is absent now, not pass'],
        ),
    ],
)
def test_what_differs_from_what_is_known_is_said(entries, cases, sentences):
    assert remarks(report(*cases), library(entries)) == [f"loralib: {sentence}" for sentence in sentences]


def test_a_verdict_or_a_kind_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"^loralib: the verdict on \*/a is 'fault', expected pass, fail or absent$"):
        library({"*/b": ("fail", FAULT), "*/a": ("fault", FAULT)})
    with pytest.raises(ValueError, match=r"^a reason's kind is 'wrong', expected convention, fault or absent$"):
        Reason("wrong", "it is wrong")


def run(monkeypatch, targets, *words):
    """npl-lora matrix with these targets for libraries."""
    monkeypatch.setattr(command, "LIBRARIES", {str(target): Library(str(target), ("numpy",)) for target in targets})
    return main(["matrix", *map(str, words)])


def test_the_files_are_written(monkeypatch, tmp_path, capsys):
    right = EXAMPLES / "my_lora.py"
    words = ["--markdown", tmp_path / "matrix.md", "--json", tmp_path / "matrix.json"]
    assert run(monkeypatch, [right], *words) == 0
    whole = json.loads((tmp_path / "matrix.json").read_text())
    cases = len(CONTRACTS["lora_linear"].cases("float32")) * len(DTYPES)
    assert whole["libraries"][str(right)]["contracts"]["lora_linear"]["passed"] == cases
    assert (tmp_path / "matrix.md").read_text() == document(whole)
    assert table(whole) in capsys.readouterr().out


def test_an_unknown_failure_is_exit_1(monkeypatch, capsys):
    assert run(monkeypatch, [WRONG]) == 1
    printed = capsys.readouterr()
    assert f"{WRONG}: lora_linear fails in a way that is not known; npl-lora check {WRONG} says why" in printed.out
    assert printed.err == f"checking {WRONG}\n"


def test_a_library_that_is_named_is_checked_alone_and_its_column_replaced(monkeypatch, tmp_path, capsys):
    file = tmp_path / "matrix.json"
    record = matrix({"elsewhere": RECORDED["libraries"]["peft"], RIGHT: RECORDED["libraries"]["keras"]})
    file.write_text(json.dumps({**record, "versions": {**record["versions"], "numpy": "0.1"}}))
    words = ["--json", file, "--markdown", tmp_path / "matrix.md"]
    assert run(monkeypatch, [WRONG, RIGHT], RIGHT, *words) == 0
    printed = capsys.readouterr()
    assert printed.err == f"checking {RIGHT}\n"
    assert "peft" not in printed.out
    whole = json.loads(file.read_text())
    assert list(whole["libraries"]) == [RIGHT, "elsewhere"]
    assert whole["libraries"]["elsewhere"] == record["libraries"]["elsewhere"]
    new = whole["libraries"][RIGHT]
    assert set(new["contracts"]) == {"lora_linear"}
    assert new["versions"] == {"numpy": record["versions"]["numpy"]}
    assert (tmp_path / "matrix.md").read_text() == document(whole)
    assert f"numpy 0.1 and {record['versions']['numpy']}, peft " in table(whole)


def test_when_every_column_is_new_so_is_the_record():
    new = matrix({"b": {"versions": {}}, "a": {"versions": {}}})
    assert update_record({"versions": {"numpy": "0.1"}, "libraries": {"a": {}}}, new, []) == new


def test_a_record_of_libraries_that_are_not_installed_is_not_overwritten(monkeypatch, tmp_path, capsys):
    file = tmp_path / "matrix.json"
    file.write_text(json.dumps(RECORDED))
    assert run(monkeypatch, [RIGHT], "--json", file) == 2
    printed = capsys.readouterr()
    assert f"{file} has columns that cannot be made here ({', '.join(RECORDED['libraries'])}): name" in printed.err
    assert "checking" not in printed.err
    assert json.loads(file.read_text()) == RECORDED


@pytest.mark.parametrize("content", ["", "[]", '{"protocol": 1}'])
def test_a_file_that_is_no_record_is_left_alone(monkeypatch, tmp_path, capsys, content):
    file = tmp_path / "report.json"
    file.write_text(content)
    assert run(monkeypatch, [RIGHT], "--json", file) == 2
    assert f"{file} was not written by npl-lora matrix --json" in capsys.readouterr().err
    assert file.read_text() == content


def test_a_name_that_cannot_be_checked_is_exit_2(monkeypatch, capsys):
    assert run(monkeypatch, [RIGHT], "nobody") == 2
    assert f"'nobody' is not one of {RIGHT}" in capsys.readouterr().err
    monkeypatch.setattr(rows, "find_spec", lambda package: None)
    assert run(monkeypatch, [RIGHT], RIGHT) == 2
    assert f"{RIGHT} needs numpy: pip install" in capsys.readouterr().err


def test_nothing_to_check_is_exit_2(monkeypatch, capsys):
    assert run(monkeypatch, ["no_such_file.py"]) == 2
    assert "no library could be checked" in capsys.readouterr().err


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(rows, "find_spec", lambda package: None if package == "torchtune" else package)
    with pytest.raises(TargetError, match=r"torchtune needs torchtune: pip install 'npl-lora\[torchtune\]'"):
        open_subject("torchtune")
    monkeypatch.setattr(rows, "find_spec", lambda package: package)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(TargetError, match="needs a C"):
        open_subject("torch-compiled")
