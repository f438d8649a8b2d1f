"""The conformance matrix: what each library does with each contract, as data and as Markdown.

A cell is the word for a library's cases of a contract: "pass", or what is known of those that do not ("convention" or
"fault", see `known`), or "fail" where a case fails that is not known to, or "absent". Only the case's own verdict makes
the word: a case that is known to fail and passes is a pass.
"""

import platform
from collections.abc import Iterable
from importlib import metadata
from typing import Any

from ... import __version__
from ..contracts import CONTRACTS
from ..report import CaseReport, ContractReport, Report
from .known import BEYOND, Reason, known

# What a package is called where its version is kept.
_DISTRIBUTIONS = {"mlx_lm": "mlx-lm"}
_GRADES = ("fail", "fault", "convention", "pass", "absent")  # a cell's word is the first that one of its cases has


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The installed version of each package."""
    names = (_DISTRIBUTIONS.get(package, package) for package in packages)
    return {name: metadata.version(name) for name in names}


def library(report: Report, packages: Iterable[str]) -> dict[str, Any]:
    """A report as a column of the matrix."""
    contracts = {contract.contract: cell(report.target, contract) for contract in report.contracts}
    beyond = [_as_json(reason) for reason in BEYOND.get(report.target, ())]
    return {"versions": versions(packages), "contracts": contracts, "beyond": beyond}


def cell(name: str, contract: ContractReport) -> dict[str, Any]:
    """A library's cases of a contract: the word, how many of those asked pass, the reasons, and what is not known."""
    graded = [(case, *_grade(name, case)) for case in contract.cases]
    words = {word for _, word, _ in graded}
    reasons = dict.fromkeys(reason for _, word, reason in graded if reason is not None and word != "absent")
    return {
        "verdict": next(word for word in _GRADES if word in words),
        "passed": sum(case.verdict == "pass" for case in contract.cases),
        "asked": sum(case.verdict != "absent" for case in contract.cases),
        "reasons": [_as_json(reason) for reason in reasons],
        "absent": {case.id: case.message for case in contract.cases if case.verdict == "absent"},
        "unknown": {case.id: case.message for case, word, _ in graded if word == "fail"},
    }


def _grade(name: str, case: CaseReport) -> tuple[str, Reason | None]:
    """A case's word, and the reason that is known for it."""
    verdict, reason = known(name, case.id)
    if case.verdict == "absent" or verdict != case.verdict:
        return case.verdict, None
    return (reason.kind if reason else case.verdict), reason


def _as_json(reason: Reason) -> dict[str, str]:
    return {"kind": reason.kind, "sentence": reason.sentence, "example": reason.example, "prints": reason.prints}


def matrix(columns: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The whole, with the versions that everything ran on."""
    ran_on = {"npl-lora": __version__, "Python": platform.python_version(), **versions(["numpy"])}
    return {"protocol": 1, "versions": ran_on, "libraries": columns}


def known_throughout(whole: dict[str, Any]) -> bool:
    """Whether every failure is a known one."""
    return all(c["verdict"] != "fail" for column in whole["libraries"].values() for c in column["contracts"].values())


def summary(whole: dict[str, Any]) -> str:
    """The table in Markdown, and the versions. Its numbers refer to the reasons, which `table` lists."""
    return "\n".join([*_rows(whole), "", _versions_text(whole)]) + "\n"


def table(whole: dict[str, Any]) -> str:
    """The table in Markdown, the reasons numbered below it, and the versions."""
    reasons = [f"{number}. **{kind}**: {sentence}." for (kind, sentence), (number, _) in _numbers(whole).items()]
    return "\n".join([*_rows(whole), "", *reasons, "", _versions_text(whole)]) + "\n"


def _rows(whole: dict[str, Any]) -> list[str]:
    """The lines of the table: one row for each contract."""
    libraries, numbers = whole["libraries"], _numbers(whole)
    lines = ["| | " + " | ".join(libraries) + " |", "|---" * (len(libraries) + 1) + "|"]
    for contract in CONTRACTS:
        cells = (column["contracts"].get(contract) for column in libraries.values())
        lines.append(f"| {contract} | " + " | ".join(_cell_text(c, numbers) for c in cells) + " |")
    return lines


def document(whole: dict[str, Any]) -> str:
    """The table, and the smallest example of each reason, with what it prints."""
    lines = ["# The conformance matrix", "", "Written by `npl-lora matrix --markdown FILE`.", "", table(whole)]
    for (kind, sentence), (number, example) in _numbers(whole).items():
        lines += [f"## {number}. {kind}", "", f"{sentence}.", ""]
        if example["example"]:
            lines += ["```python", example["example"].rstrip("\n"), "```", ""]
            lines += ["It prints", "", "```", example["prints"].rstrip("\n"), "```", ""]
    return "\n".join(lines)


def _numbers(whole: dict[str, Any]) -> dict[tuple[str, str], tuple[int, dict[str, str]]]:
    """Every reason once, numbered in the order of the libraries; what no case asks for after a library's cells."""
    reasons: dict[tuple[str, str], dict[str, str]] = {}
    for column in whole["libraries"].values():
        found = [reason for c in column["contracts"].values() for reason in c["reasons"]]
        for reason in found + column["beyond"]:
            reasons.setdefault((reason["kind"], reason["sentence"]), reason)
    return {key: (number, reason) for number, (key, reason) in enumerate(reasons.items(), start=1)}


def _cell_text(c: dict[str, Any] | None, numbers: dict[tuple[str, str], tuple[int, dict[str, str]]]) -> str:
    """fault 8/10, 2 absent (1, 2)."""
    if c is None or c["verdict"] == "absent":
        return "–"
    found = sorted(numbers[reason["kind"], reason["sentence"]][0] for reason in c["reasons"])
    marks = f" ({', '.join(map(str, found))})" if found else ""
    absent = f", {len(c['absent'])} absent" if c["absent"] else ""
    return f"{c['verdict']} {c['passed']}/{c['asked']}{absent}{marks}"


def _versions_text(whole: dict[str, Any]) -> str:
    """On what it ran: each package once."""
    all_versions = dict(whole["versions"])
    for column in whole["libraries"].values():
        all_versions |= column["versions"]
    return "Run with " + ", ".join(f"{name} {version}" for name, version in all_versions.items()) + "."
