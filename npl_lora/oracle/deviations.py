"""Known deviations: what an implementation is known to get wrong, and why that is left so.

A file of the user's, JSON or TOML, with a reason for each:

    "lora_merge/plain/float16" = "we merge in float32 and store bfloat16"       the id of a case
    S3 = "no rsLoRA here: the scale is always alpha / r"                       the id of a fault of the catalogue

A case's id excuses the case if it fails. A fault's excuses all failures of a contract, if the diagnosis says that this
fault, alone or with others that are listed too, explains every one of them. It is strict: what is listed and does not
fail is an error, for a list that is longer than the truth hides the next fault.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..support.tensor_file import TensorFileError, json_object
from .report import CaseReport, ContractReport, Report
from .subjects.one_line import first_line

Reasons = Mapping[str, str]


class DeviationsError(Exception):
    """The file of deviations cannot be used. One sentence."""


def read_deviations(path: Path) -> dict[str, str]:
    """id -> reason. Raises DeviationsError, one sentence, for a file that is something else, or has no reasons."""
    try:
        raw = path.read_bytes()
        found = tomllib.loads(raw.decode()) if path.suffix == ".toml" else json_object(raw, "the file")
    except OSError as error:
        raise DeviationsError(f"{path}: {error.strerror}") from None
    except TensorFileError as error:
        raise DeviationsError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise DeviationsError(f"{path} is not TOML: {first_line(str(error))}") from None
    for id_, reason in found.items():
        if not isinstance(reason, str) or not reason.strip():
            raise DeviationsError(f"{path}: {id_[:80]!r} has no reason")
    return found


def excuse(report: Report, reasons: Reasons) -> Report:
    """The report with the failures that were said beforehand as "expected", and with what was said and is not so."""
    if report.problem:
        return report
    used = set[str]()
    contracts = tuple(_excused(contract, reasons, used) for contract in report.contracts)
    verdicts = {case.id: case.verdict for contract in report.contracts for case in contract.cases}
    unexpected = tuple(_not_so(id_, reasons[id_], verdicts.get(id_)) for id_ in reasons if id_ not in used)
    return replace(report, contracts=contracts, unexpected=unexpected)


def _excused(contract: ContractReport, reasons: Reasons, used: set[str]) -> ContractReport:
    explaining = next((match for match in contract.diagnosis.matches if set(match) <= reasons.keys()), ())
    used.update(explaining)
    why = "; ".join(reasons[id_] for id_ in explaining)
    return replace(contract, cases=tuple(_excused_case(case, reasons, used, why) for case in contract.cases))


def _excused_case(case: CaseReport, reasons: Reasons, used: set[str], why: str) -> CaseReport:
    if case.verdict != "fail":
        return case
    if case.id in reasons:
        used.add(case.id)
    reason = reasons.get(case.id, why)
    return replace(case, verdict="expected", message=f"{case.message} (expected: {reason})") if reason else case


def _not_so(id_: str, reason: str, verdict: str | None) -> str:
    known = {"pass": "passes", "absent": "is absent"}
    return f"{id_} {known.get(verdict or '', 'matches nothing that fails')}, and was expected to fail: {reason}"
