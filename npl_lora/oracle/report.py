"""What a check reports: of a case, of a contract, of a target; and what is said to be wrong."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .case import Case
from .tolerance.judge import OutputVerdict, Right
from .tolerance.statistics import Distribution


@dataclass(frozen=True)
class Observed:
    """outputs is None where the subject gave no answer: it raised, say. failed: the outputs that were judged wrong.
    objections: what was said of outputs whose numbers are right, and whose draws are not."""

    case: Case
    right: Mapping[str, Right | Distribution]
    outputs: Mapping[str, np.ndarray] | None
    failed: tuple[str, ...]
    objections: tuple[str, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """ids: of the catalogue, best first; () when none fits. says: one or two sentences; "" when there is nothing to
    say that the cases' own messages do not. matches: the ids that explain everything together, best first."""

    ids: tuple[str, ...] = ()
    says: str = ""
    matches: tuple[tuple[str, ...], ...] = ()


NOTHING = Diagnosis()


@dataclass(frozen=True)
class CaseReport:
    """One case's verdict ("pass", "fail", "absent", or "expected": it fails, as was said beforehand), one line of what
    there is to say, and each output's verdict."""

    id: str
    dtype: str
    verdict: str
    message: str
    outputs: dict[str, OutputVerdict] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        outputs = {
            name: {"verdict": o.verdict, "error": o.error, "allowed": o.allowed, "note": o.note}
            for name, o in self.outputs.items()
        }
        return {
            "id": self.id,
            "dtype": self.dtype,
            "verdict": self.verdict,
            "message": self.message,
            "outputs": outputs,
        }


@dataclass(frozen=True)
class ContractReport:
    """A contract's cases. It fails when one fails, passes when one passes, and else is expected to fail or absent."""

    contract: str
    cases: tuple[CaseReport, ...]
    diagnosis: Diagnosis = NOTHING
    observed: tuple[Observed, ...] = field(default=(), repr=False)  # the failing cases that were answered

    @property
    def verdict(self) -> str:
        return _overall([case.verdict for case in self.cases], nothing="absent")

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """For each dtype: how many cases pass, and how many there are. Absent ones do not count."""
        asked = [case for case in self.cases if case.verdict != "absent"]
        passed = Counter(case.dtype for case in asked if case.verdict == "pass")
        return {dtype: (passed[dtype], n) for dtype, n in Counter(case.dtype for case in asked).items()}

    @property
    def counted(self) -> str:
        """The counts in words: "Passed: float64 0/3, float32 2/3."; "" where no case passes."""
        words = (f"{dtype} {passed}/{asked}" for dtype, (passed, asked) in self.counts.items())
        return f"Passed: {', '.join(words)}." if any(passed for passed, _ in self.counts.values()) else ""

    def as_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "diagnosis": list(self.diagnosis.ids),
            "says": self.diagnosis.says,
            "counts": {dtype: {"passed": passed, "asked": asked} for dtype, (passed, asked) in self.counts.items()},
            "cases": [case.as_json() for case in self.cases],
        }


@dataclass(frozen=True)
class Report:
    """A target's contracts. Its verdict is "error" when nothing could be checked; `problem` says why, if it is
    known. unexpected: what was said to fail, and does not."""

    target: str
    contracts: tuple[ContractReport, ...] = ()
    problem: str = ""
    unexpected: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        verdict = _overall([contract.verdict for contract in self.contracts], nothing="error")
        return "fail" if self.unexpected else "pass" if verdict == "expected" else verdict

    @property
    def diagnosis(self) -> tuple[str, ...]:
        """The ids that some contract's diagnosis claims: those that explain most contracts first."""
        claims = [contract.diagnosis.ids for contract in self.contracts]
        ids = dict.fromkeys(id_ for claim in claims for id_ in claim)
        return tuple(sorted(ids, key=lambda id_: -sum(id_ in claim for claim in claims)))

    def as_json(self) -> dict[str, Any]:
        """The report as the protocol has it."""
        contracts = {contract.contract: contract.as_json() for contract in self.contracts}
        report = {
            "protocol": 1,
            "target": self.target,
            "verdict": self.verdict,
            "diagnosis": list(self.diagnosis),
            "contracts": contracts,
        }
        more = {"message": self.problem, "unexpected": list(self.unexpected)}
        return {**report, **{name: what for name, what in more.items() if what}}


def _overall(verdicts: Iterable[str], nothing: str) -> str:
    verdicts = set(verdicts)
    return next((verdict for verdict in ("fail", "pass", "expected") if verdict in verdicts), nothing)


def overall(reports: Iterable[Report]) -> str:
    """The verdict on several targets: one that could not be checked at all is an error, unless another is wrong."""
    verdicts = {report.verdict for report in reports}
    return "fail" if "fail" in verdicts else "error" if "error" in verdicts or not verdicts else "pass"
