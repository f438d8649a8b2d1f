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
from npl_lora.oracle.libraries.matrix import cell, column, document, known_throughout, matrix, summary, table
from npl_lora.oracle.libraries.table import LIBRARIES
from npl_lora.oracle.report import CaseReport, ContractReport, Report
from npl_lora.oracle.subjects import TargetError
from npl_lora.oracle.subjects.shipped import open_subject

ROOT = Path(npl_lora.__file__).parents[1]
EXAMPLES = ROOT / "examples"
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
        pinned = {re.fullmatch(r"([a-z-]+)(\[cpu\])?==[0-9.]+", package)[1] for package in extras[name]}
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
    assert list(RECORDED["libraries"]) == list(LIBRARIES)
    reasons = {(r.kind, r.sentence, r.example, r.prints) for r in KNOWN.values()}
    for library in RECORDED["libraries"].values():
        shown = [reason for c in library["contracts"].values() for reason in c["reasons"]] + library["beyond"]
        assert {tuple(reason.values()) for reason in shown} <= reasons


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


def test_an_unknown_failure_is_exit_1(monkeypatch):
    assert run(monkeypatch, [EXAMPLES / "my_lora_with_a_fault.py"]) == 1


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
