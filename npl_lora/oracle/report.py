"""Reports on a case, a contract and a target, and the diagnosis of a contract."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .case import Case
from .tolerance.judge import OutputVerdict, Right
from .tolerance.statistics import Distribution

LAYER = "layer"  # the row of a report that holds what was asked of a layer besides the contracts
_DTYPE = {"any": ""}  # what is asked in one dtype alone


@dataclass(frozen=True)
class Observed:
    """What a diagnosis sees of a case. outputs: None if the subject gave no answer, for example because it raised.
    failed: the outputs that were judged wrong. objections: notes on outputs without a wrong number, such as random
    draws with a wrong distribution. judged_by: the right answers with the bar that they were judged by, where that is
    below the derived one."""

    case: Case
    right: Mapping[str, Right | Distribution]
    outputs: Mapping[str, np.ndarray] | None
    failed: tuple[str, ...]
    objections: tuple[str, ...] = ()
    judged_by: Mapping[str, Right | Distribution] = field(default_factory=dict)

    def bar(self, name: str) -> Right | Distribution:
        """The right answer for an output, with what is allowed: for one that failed, by the bar at which it did."""
        return self.judged_by.get(name, self.right[name]) if name in self.failed else self.right[name]


@dataclass(frozen=True)
class Claim:
    """One thing that is wrong. ids: of the catalogue, best first; () for what it does not hold. outputs: those that it
    explains. says: a sentence, or a few."""

    ids: tuple[str, ...]
    outputs: tuple[str, ...]
    says: str

    def as_json(self) -> dict[str, Any]:
        return {"ids": list(self.ids), "outputs": list(self.outputs), "says": self.says}


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with a contract.

    ids: of the catalogue, best first; () when none fits. says: a few sentences; "" if the cases' own messages
    already say it all. matches: the ids that explain everything together, best first. claims: each thing
    that is wrong, with the outputs that it explains.
    """

    ids: tuple[str, ...] = ()
    says: str = ""
    matches: tuple[tuple[str, ...], ...] = ()
    claims: tuple[Claim, ...] = ()


NOTHING = Diagnosis()


@dataclass(frozen=True)
class CaseReport:
    """A case's verdict ("pass", "fail", "absent", or "expected" for a failure that the user listed), a message of one
    line, and the verdict on each output."""

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
    """A contract's cases. The contract fails if a case fails, else passes if one passes, else is expected or absent."""

    contract: str
    cases: tuple[CaseReport, ...]
    diagnosis: Diagnosis = NOTHING
    observed: tuple[Observed, ...] = field(default=(), repr=False)  # the failing cases that have an answer

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
        words = (f"{_DTYPE.get(dtype, f'{dtype} ')}{passed}/{asked}" for dtype, (passed, asked) in self.counts.items())
        return f"Passed: {', '.join(words)}." if any(passed for passed, _ in self.counts.values()) else ""

    def as_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "diagnosis": list(self.diagnosis.ids),
            "says": self.diagnosis.says,
            "claims": [claim.as_json() for claim in self.diagnosis.claims],
            "counts": {dtype: {"passed": passed, "asked": asked} for dtype, (passed, asked) in self.counts.items()},
            "cases": [case.as_json() for case in self.cases],
        }


@dataclass(frozen=True)
class Report:
    """A target's contracts. The verdict is "error" if nothing could be checked; problem says why, if known.
    unexpected: sentences on listed deviations that do not fail. forward_only: gradients were not asked for. found: of a
    layer that was adopted, sentences on what was found. convention: a sentence on its scale, if that is another than
    alpha / r; the verdict is then "convention" where it would be "pass"."""

    target: str
    contracts: tuple[ContractReport, ...] = ()
    problem: str = ""
    unexpected: tuple[str, ...] = ()
    forward_only: bool = False
    found: tuple[str, ...] = ()
    convention: str = ""

    @property
    def verdict(self) -> str:
        verdict = _overall([contract.verdict for contract in self.contracts], nothing="error")
        if self.unexpected:
            return "fail"
        right = "convention" if self.convention else "pass"
        return right if verdict in ("pass", "expected") else verdict

    @property
    def verdict_in_words(self) -> str:
        """The verdict, and whether it is on the values alone: "pass, forward only"."""
        return f"{self.verdict}, forward only" if self.forward_only else self.verdict

    @property
    def diagnosis(self) -> tuple[str, ...]:
        """The ids in the contracts' diagnoses. The ids that explain the most contracts come first."""
        claims = [contract.diagnosis.ids for contract in self.contracts]
        ids = dict.fromkeys(id_ for claim in claims for id_ in claim)
        return tuple(sorted(ids, key=lambda id_: -sum(id_ in claim for claim in claims)))

    def as_json(self) -> dict[str, Any]:
        """The report in the format of PROTOCOL.md."""
        contracts = {contract.contract: contract.as_json() for contract in self.contracts}
        report = {
            "protocol": 1,
            "target": self.target,
            "verdict": self.verdict,
            "diagnosis": list(self.diagnosis),
            "contracts": contracts,
        }
        optional = {
            "message": self.problem,
            "unexpected": list(self.unexpected),
            "forward_only": self.forward_only,
            "found": list(self.found),
            "convention": self.convention,
        }
        return {**report, **{name: value for name, value in optional.items() if value}}


def _overall(verdicts: Iterable[str], nothing: str) -> str:
    verdicts = set(verdicts)
    return next((verdict for verdict in ("fail", "pass", "expected") if verdict in verdicts), nothing)


def overall(reports: Iterable[Report]) -> str:
    """The verdict on several targets: "fail" if one fails, else "error" if one could not be checked, else "convention"
    if one follows another scale."""
    verdicts = {report.verdict for report in reports}
    bad = next((verdict for verdict in ("fail", "error", "convention") if verdict in verdicts), "pass")
    return bad if verdicts else "error"
