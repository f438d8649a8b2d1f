"""Known deviations: faults that an implementation is known to have and intends to keep.

The user lists them in a JSON or TOML file, each with a reason:

    "lora_merge/plain/float16" = "we merge in float32 and store bfloat16"       the id of a case
    S3 = "no rsLoRA here: the scale is always alpha / r"                       the id of a fault in the catalogue

The id of a case excuses that case if it fails. The id of a fault excuses all failures of a contract if the diagnosis
says that this fault, alone or with other listed faults, explains every one of them. The list is strict: an entry that
does not fail is an error, because an outdated entry would hide the next fault.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..support.tensor_file import TensorFileError, json_object
from .one_line import first_line
from .report import CaseReport, ContractReport, Report

Reasons = Mapping[str, str]


class DeviationsError(Exception):
    """The file of deviations cannot be used. The message is one sentence."""


def read_deviations(path: Path) -> dict[str, str]:
    """id -> reason. Raises DeviationsError, one sentence, if the file is anything else or a reason is missing."""
    try:
        raw = path.read_bytes()
        reasons = tomllib.loads(raw.decode()) if path.suffix == ".toml" else json_object(raw, "the file")
    except OSError as error:
        raise DeviationsError(f"{path}: {error.strerror}") from None
    except TensorFileError as error:
        raise DeviationsError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise DeviationsError(f"{path} is not TOML: {first_line(str(error))}") from None
    for id_, reason in reasons.items():
        if not isinstance(reason, str) or not reason.strip():
            raise DeviationsError(f"{path}: {id_[:80]!r} has no reason")
    return reasons


def excuse(report: Report, reasons: Reasons) -> Report:
    """The report, with listed failures marked "expected", and with a sentence for each entry that does not fail."""
    if report.problem:
        return report
    used = set[str]()
    contracts = tuple(_excuse_contract(contract, reasons, used) for contract in report.contracts)
    verdicts = {case.id: case.verdict for contract in report.contracts for case in contract.cases}
    unexpected = tuple(_unexpected(id_, reasons[id_], verdicts.get(id_)) for id_ in reasons if id_ not in used)
    return replace(report, contracts=contracts, unexpected=unexpected)


def _excuse_contract(contract: ContractReport, reasons: Reasons, used: set[str]) -> ContractReport:
    explaining = next((match for match in contract.diagnosis.matches if set(match) <= reasons.keys()), ())
    used.update(explaining)
    reason = "; ".join(reasons[id_] for id_ in explaining)
    return replace(contract, cases=tuple(_excuse_case(case, reasons, used, reason) for case in contract.cases))


def _excuse_case(case: CaseReport, reasons: Reasons, used: set[str], contract_reason: str) -> CaseReport:
    if case.verdict != "fail":
        return case
    if case.id in reasons:
        used.add(case.id)
    reason = reasons.get(case.id, contract_reason)
    return replace(case, verdict="expected", message=f"{case.message} (expected: {reason})") if reason else case


def _unexpected(id_: str, reason: str, verdict: str | None) -> str:
    """The sentence on a listed id that does not fail."""
    outcome = {"pass": "passes", "absent": "is absent"}.get(verdict or "", "matches no failure")
    return f"{id_} {outcome}, but was expected to fail: {reason}"
