"""The conformance matrix: what each library does with each contract, as data and as Markdown.

A cell has one word for a library's cases of a contract. "pass": every case passes. "convention" or "fault": the kind
of the reasons that are known for the others. "fail": some case fails and is not known to. "absent": the library has
none of the cases. The word follows from the verdicts that were found: a case that is known to fail and passes counts
as a pass.
"""

import platform
from collections.abc import Iterable
from importlib import metadata
from typing import Any

from ... import __version__
from ..contracts import CONTRACTS
from ..report import LAYER, CaseReport, ContractReport, Report
from .library import Library, Reason

_WORDS = ("fail", "fault", "convention", "pass", "absent")  # a cell has the first of these that one of its cases has
_LAYER_ROW = (
    "*layer* is what the library's linear layer is asked besides its numbers, as any adopted layer is: how it starts, "
    "what is trained and saved, whether y follows when A or B change. Those of PyTorch are asked about autocast, "
    "checkpointing and the like too, and PEFT's about switching adapters."
)


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """The installed version of each distribution."""
    return {name: metadata.version(name) for name in distributions}


def column(report: Report, library: Library) -> dict[str, Any]:
    """A library's report as a column of the matrix."""
    return {
        "versions": versions(library.distributions),
        "contracts": {contract.contract: cell(contract, library) for contract in report.contracts},
        "beyond": [_as_json(reason) for reason in library.beyond],
    }


def cell(contract: ContractReport, library: Library) -> dict[str, Any]:
    """A library's cases of one contract: the word, how many of those asked pass, the reasons, the unknown failures."""
    graded = [(case, *_grade(case, library)) for case in contract.cases]
    words = {word for _, word, _ in graded}
    reasons = dict.fromkeys(reason for _, word, reason in graded if reason is not None and word != "absent")
    return {
        "verdict": next(word for word in _WORDS if word in words),
        "passed": sum(case.verdict == "pass" for case in contract.cases),
        "asked": sum(case.verdict != "absent" for case in contract.cases),
        "reasons": [_as_json(reason) for reason in reasons],
        "absent": {case.id: case.message for case in contract.cases if case.verdict == "absent"},
        "unknown": {case.id: case.message for case, word, _ in graded if word == "fail"},
    }


def _grade(case: CaseReport, library: Library) -> tuple[str, Reason | None]:
    """A case's word, and the reason that is known for it."""
    verdict, reason = library.verdict(case.id)
    if case.verdict == "absent" or verdict != case.verdict:
        return case.verdict, None
    return (reason.kind if reason else case.verdict), reason


def remarks(report: Report, library: Library) -> list[str]:
    """Where a library differs from what is known of it: failures that are not known, and entries that are stale."""
    graded = [(case, *_grade(case, library)) for contract in report.contracts for case in contract.cases]
    failing = dict.fromkeys(case.id.partition("/")[0] for case, word, _ in graded if word == "fail")
    sentences = []
    if failing:
        verb = "fails" if len(failing) == 1 else "fail"
        why = f"npl-lora check {library.name} says why"
        sentences.append(f"{library.name}: {', '.join(failing)} {verb} in a way that is not known; {why}")
    stale: dict[tuple[str, str, str], list[str]] = {}
    for case, word, _ in graded:
        verdict, reason = library.verdict(case.id)
        if reason is not None and word != "fail" and case.verdict != verdict:
            stale.setdefault((verdict, reason.sentence, case.verdict), []).append(case.id)
    for (verdict, sentence, now), ids in stale.items():
        which = ids[0] if len(ids) == 1 else f"{ids[0]}, one of {len(ids)},"
        sentences.append(f'{library.name}: the entry "{sentence}" is stale: {which} is {now} now, not {verdict}')
    return sentences


def _as_json(reason: Reason) -> dict[str, str]:
    return {"kind": reason.kind, "sentence": reason.sentence, "example": reason.example, "prints": reason.prints}


def matrix(columns: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """All columns, with the versions of what they ran on."""
    platform_versions = {"npl-lora": __version__, "Python": platform.python_version(), **versions(["numpy"])}
    return {"protocol": 1, "versions": platform_versions, "libraries": columns}


def known_throughout(data: dict[str, Any]) -> bool:
    """Whether every failure in the matrix is a known one."""
    return all(c["verdict"] != "fail" for column in data["libraries"].values() for c in column["contracts"].values())


def summary(data: dict[str, Any]) -> str:
    """The table in Markdown, contracts alone. Its numbers refer to the reasons, which `table` lists."""
    return "\n".join(_grid(data, tuple(CONTRACTS))) + "\n"


def table(data: dict[str, Any]) -> str:
    """The table in Markdown, the numbered reasons below it, and the versions."""
    reasons = [f"{number}. **{kind}**: {sentence}." for (kind, sentence), (number, _) in _numbers(data).items()]
    adopted = any(LAYER in column["contracts"] for column in data["libraries"].values())
    grid = [*_grid(data, (LAYER, *CONTRACTS)), *(["", _LAYER_ROW] if adopted else [])]
    return "\n".join([*grid, "", *reasons, "", _versions_sentence(data)]) + "\n"


def _grid(data: dict[str, Any], rows: Iterable[str]) -> list[str]:
    """The lines of the table: of these rows, those that a library answers."""
    libraries, numbers = data["libraries"], _numbers(data)
    lines = ["| | " + " | ".join(libraries) + " |", "|---" * (len(libraries) + 1) + "|"]
    for contract in rows:
        cells = [column["contracts"].get(contract) for column in libraries.values()]
        if not any(cells):
            continue
        lines.append(f"| {contract} | " + " | ".join(_cell_text(c, numbers) for c in cells) + " |")
    return lines


def _versions_sentence(data: dict[str, Any]) -> str:
    """The versions that the matrix was made with, each once: columns may have been written at different times."""
    every: dict[str, list[str]] = {}
    for group in [data["versions"], *(column["versions"] for column in data["libraries"].values())]:
        for name, version in group.items():
            if version not in every.setdefault(name, []):
                every[name].append(version)
    return "Run with " + ", ".join(f"{name} {' and '.join(found)}" for name, found in every.items()) + "."


def document(data: dict[str, Any]) -> str:
    """The table, then for each reason the shortest script that shows it and what that prints."""
    lines = ["# The conformance matrix", "", "Written by `npl-lora matrix --markdown FILE`.", "", table(data)]
    for (kind, sentence), (number, reason) in _numbers(data).items():
        lines += [f"## {number}. {kind}", "", f"{sentence}.", ""]
        if reason["example"]:
            lines += ["```python", reason["example"].rstrip("\n"), "```", ""]
            lines += ["It prints", "", "```", reason["prints"].rstrip("\n"), "```", ""]
    return "\n".join(lines)


def _numbers(data: dict[str, Any]) -> dict[tuple[str, str], tuple[int, dict[str, str]]]:
    """Every reason once, numbered library by library: those of its cells first, then those that no case asks for."""
    unique: dict[tuple[str, str], dict[str, str]] = {}
    for column in data["libraries"].values():
        of_cells = [reason for c in column["contracts"].values() for reason in c["reasons"]]
        for reason in of_cells + column["beyond"]:
            unique.setdefault((reason["kind"], reason["sentence"]), reason)
    return {key: (number, reason) for number, (key, reason) in enumerate(unique.items(), start=1)}


def _cell_text(c: dict[str, Any] | None, numbers: dict[tuple[str, str], tuple[int, dict[str, str]]]) -> str:
    """fault 8/10, 2 absent (1, 2)."""
    if c is None or c["verdict"] == "absent":
        return "–"
    found = sorted(numbers[reason["kind"], reason["sentence"]][0] for reason in c["reasons"])
    marks = f" ({', '.join(map(str, found))})" if found else ""
    absent = f", {len(c['absent'])} absent" if c["absent"] else ""
    return f"{c['verdict']} {c['passed']}/{c['asked']}{absent}{marks}"
