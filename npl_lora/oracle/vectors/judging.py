"""Judging a folder of answers to the vectors, as `check` judges a subject.

Nothing in the folder of vectors is computed with: a vector must be, byte by byte, the one that is written for its id,
which is how an altered or outdated one is noticed, and then the question is the package's own. Answers are read as
those of any program are.
"""

import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..case import Case
from ..check import check_case, observe
from ..contracts import CONTRACTS
from ..diagnosis import diagnose
from ..dtypes import askable
from ..report import CaseReport, ContractReport, Report
from ..subjects import Answer
from ..subjects.convert import AnswerError
from ..subjects.result_file import read_arrays
from .writing import described, encode_case

_LIMIT = 1 << 26  # bytes of a manifest
_ID = re.compile(r"[a-z0-9_]+/[a-z0-9-]+/[a-z0-9]+")

Entry = dict[str, Any]


class _Unusable(Exception):
    """A file that is not what it should be. One sentence."""


def judge_vectors(folder: Path, results: Path, on_case: Callable[[str, str, int, int], None] | None = None) -> Report:
    """A report on the answers in `results`, RESULTS/<id>.safetensors, to the vectors in `folder`.

    A vector without an answer fails; a contract without any is absent. No fault of a file raises: where the manifest
    cannot be read, the report's verdict is "error". Raises MissingExtraError without safetensors.
    on_case(target, case id, cases done, cases in all) is called before each case.
    """
    try:
        entries = _entries(folder)
        if not results.is_dir():
            raise _Unusable(f"{results} is not a folder")
    except _Unusable as problem:
        return Report(str(results), problem=str(problem))
    contracts: dict[str, list[_Judged]] = {_contract(id_): [] for id_ in entries}
    present = {_contract(id_) for id_ in entries if os.path.lexists(_answer_path(results, id_))}
    shipped = {case.id: case for name in CONTRACTS for dtype in askable() for case in CONTRACTS[name].cases(dtype)}
    for done, (id_, entry) in enumerate(entries.items()):
        if on_case is not None:
            on_case(str(results), id_, done, len(entries))
        answered = _contract(id_) in present
        contracts[_contract(id_)].append(_judge(folder, entry, shipped.get(id_), results if answered else None))
    return Report(str(results), tuple(_contract_report(name, judged) for name, judged in contracts.items()))


_Judged = tuple[CaseReport, Case | None, Answer]


def _judge(folder: Path, entry: Entry, shipped: Case | None, results: Path | None) -> _Judged:
    """One vector. results is None where its contract has no answers at all."""
    id_ = entry["id"]
    if results is None:
        return CaseReport(id_, id_.split("/")[2], "absent", "no answers to this contract"), None, Answer()
    try:
        case = _question(folder, entry, shipped)
        path = _inside(results, _answer_path(results, id_))
        if not os.path.lexists(path):
            raise _Unusable(f"{path} is missing")
        answer = Answer(outputs=(read_arrays(path),))
    except _Unusable as problem:
        return CaseReport(id_, id_.split("/")[2], "fail", str(problem)), None, Answer()
    except AnswerError as problem:
        answer = Answer(error=str(problem))
    return check_case(case, answer), case, answer


def _contract_report(name: str, judged: list[_Judged]) -> ContractReport:
    known = [(case, answer, report) for report, case, answer in judged if case is not None]
    cases, answers, reports = zip(*known, strict=True) if known else ((), (), ())
    diagnosis = diagnose(observe(cases, answers, reports))
    return ContractReport(name, tuple(report for report, _, _ in judged), diagnosis)


def _contract(id_: str) -> str:
    return id_.split("/")[0]


def _answer_path(results: Path, id_: str) -> Path:
    return results / f"{id_}.safetensors"


def _question(folder: Path, entry: Entry, case: Case | None) -> Case:
    """The case that the vector is, if it is the one that is written for its id."""
    if case is None:
        raise _Unusable("this version of npl-lora has no such case: write the vectors again")
    for name, right in described(case).items():
        if (got := entry.get(name)) != right:
            raise _Unusable(f"the manifest gives it {name} {got!r:.80}, expected {right!r:.80}")
    path = folder / entry["files"]["case"]
    if _bytes(_inside(folder, path), _LIMIT) != encode_case(case):
        raise _Unusable(f"{path} is not what this version of npl-lora writes: write the vectors again")
    return case


def _entries(folder: Path) -> dict[str, Entry]:
    """The manifest's vectors by id."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(_bytes(path, _LIMIT).decode())
    except (ValueError, RecursionError):  # neither JSON nor UTF-8, a million brackets
        raise _Unusable(f"{path} is not JSON in UTF-8") from None
    if not isinstance(manifest, dict) or manifest.get("protocol") != 1:
        raise _Unusable(f"{path} is not a manifest of protocol 1")
    vectors = manifest.get("vectors")
    if not isinstance(vectors, list) or not vectors:
        raise _Unusable(f"{path} has no vectors")
    entries: dict[str, Entry] = {}
    for entry in vectors:
        id_ = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(id_, str) or not _ID.fullmatch(id_):
            raise _Unusable(f"{path} has a vector with the id {id_!r:.80}, expected contract/name/dtype")
        if id_ in entries:
            raise _Unusable(f"{path} has {id_} twice")
        entries[id_] = entry
    return entries


def _inside(folder: Path, path: Path) -> Path:
    """The path, if no symlink on it leads out of the folder."""
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise _Unusable(f"{path} is not inside {folder}")
    return path


def _bytes(path: Path, limit: int) -> bytes:
    """What is in a regular file of at most so many bytes."""
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a FIFO would wait for a writer
            raise _Unusable(f"{path} is not a regular file")
        if status.st_size > limit:
            raise _Unusable(f"{path} has {status.st_size:,} bytes, expected at most {limit:,}")
        return path.read_bytes()
    except OSError as error:
        raise _Unusable(f"{path} cannot be read: {error.strerror}") from None
