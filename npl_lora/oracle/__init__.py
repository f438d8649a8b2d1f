"""The oracle: contracts and cases, subjects, tolerance, verdicts and reports.

    from npl_lora.oracle import check, open_subject
    report = check(open_subject("mine.py"))
    report.verdict            # "pass", "convention", "fail" or "error"

Reading order: case, contracts/lora_linear, rounding, judge, check, subjects.
"""

from .case import Case
from .check import check
from .contracts import CONTRACTS
from .dtypes import DTYPES
from .dumps.capture import capture
from .report import CaseReport, ContractReport, Report, overall
from .subjects import TargetError
from .subjects.shipped import open_subject
from .why import why_allowed

__all__ = [
    "CONTRACTS",
    "DTYPES",
    "Case",
    "CaseReport",
    "ContractReport",
    "Report",
    "TargetError",
    "capture",
    "check",
    "open_subject",
    "overall",
    "why_allowed",
]
