"""Checking a subject: every case of every contract that it bears, one by one, and the report of it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .case import Case
from .contracts import CONTRACTS
from .diagnosis import NOTHING, Diagnosis, Observed, diagnose
from .dtypes import DTYPES, askable, computable
from .judge import OutputVerdict, Right, judge, right_answer
from .measured import tightened
from .rounding import INNER
from .subjects import Answer, Subject


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

    def as_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "diagnosis": list(self.diagnosis.ids),
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


def check(
    subject: Subject,
    *,
    dtypes: Iterable[str] | None = None,
    contract: str | None = None,
    inner: str | None = None,
    on_case: Callable[[str, str, int, int], None] | None = None,
) -> Report:
    """Ask a subject every case of its contracts (or of one of them) in these dtypes, and judge the answers.

    dtypes: all of DTYPES by default, but for bfloat16 where ml_dtypes is not installed. inner: a coarser precision, of
    INNER, that products may be computed in. on_case(target, case id, cases done, cases in all) is called before each
    case. Raises ValueError for what is none of these, and MissingExtraError for bfloat16 without ml_dtypes.
    """
    dtypes = askable() if dtypes is None else tuple(dtypes)
    if unknown := [dtype for dtype in dtypes if dtype not in DTYPES]:
        raise ValueError(f"dtypes has {', '.join(map(repr, unknown))}, expected some of {', '.join(DTYPES)}")
    if inner is not None and inner not in INNER:
        raise ValueError(f"inner is {inner!r}, expected one of {', '.join(INNER)}")
    names = [name for name in subject.contracts if contract in (None, name)]
    if not names:
        return Report(subject.name, problem=f"has no {contract} (it has: {', '.join(subject.contracts)})")
    asked = {
        name: [replace(case, inner=inner) for dtype in dtypes for case in CONTRACTS[name].cases(dtype)]
        for name in names
    }
    total, done = sum(map(len, asked.values())), 0
    contracts = []
    for name, cases in asked.items():
        reports, answers = [], []
        for case in cases:
            if on_case is not None:
                on_case(subject.name, case.id, done, total)
            answers.append(subject.ask(case))
            reports.append(check_case(case, answers[-1]))
            done += 1
        proof = getattr(subject, "proof", None)  # only the package's own ops have one
        reports.extend(proof(name) if proof is not None else ())
        observed = observe(cases, answers, reports)
        failing = tuple(one for one in observed if one.failed and one.outputs is not None)
        contracts.append(ContractReport(name, tuple(reports), diagnose(observed), failing))
    return Report(subject.name, tuple(contracts))


def observe(cases: Iterable[Case], answers: Iterable[Answer], reports: Iterable[CaseReport]) -> list[Observed]:
    """What a diagnosis looks at, of a contract's cases; nothing when none of them fails."""
    asked = [one for one in zip(cases, answers, reports, strict=False) if one[2].verdict != "absent"]
    if all(report.verdict == "pass" for _, _, report in asked):
        return []
    observed = []
    for case, answer, report in asked:
        contract, outputs = CONTRACTS[case.contract], answer.outputs[0] if answer.outputs else None
        case = case if contract.settle is None else contract.settle(case, outputs or {})
        case = replace(case, exact=False)  # a fault's numbers need not be whole
        outputs = outputs and computable(outputs)
        failed = tuple(name for name, output in report.outputs.items() if output.verdict == "fail")
        objections = () if contract.settle is None else _objections(report)
        observed.append(Observed(case, right_answer(case, contract.answer), outputs, failed, objections))
    return observed


def _objections(report: CaseReport) -> tuple[str, ...]:
    """What was said of outputs that have no wrong number."""
    return tuple(o.note for o in report.outputs.values() if o.verdict == "fail" and o.error is None)


def judge_case(case: Case, outputs: Mapping[str, np.ndarray]) -> dict[str, OutputVerdict]:
    """A verdict for every output of a case, as its contract judges."""
    contract = CONTRACTS[case.contract]
    if contract.judge is not None:
        return contract.judge(case, outputs)
    right = right_answer(case, contract.answer)
    if not all(np.isfinite(output.value).all() for output in right.values() if isinstance(output, Right)):
        raise OverflowError("the right answer is not finite")
    return judge(tightened(case, right, contract.answer), outputs)


def check_case(case: Case, answer: Answer) -> CaseReport:
    """Judge what came back for a case: each call's outputs, the first that fails deciding."""
    if answer.absent is not None:
        return CaseReport(case.id, case.dtype, "absent", answer.absent or "not supported")
    if answer.error is not None or not answer.outputs:
        return CaseReport(case.id, case.dtype, "fail", answer.error or "no answer")
    for call, outputs in enumerate(answer.outputs):
        if call and _same(outputs, answer.outputs[0]):
            continue
        verdicts = judge_case(case, outputs)
        failed = [name for name, output in verdicts.items() if output.verdict != "pass"]
        if failed:
            again = "a second call differs: " if call else ""
            more = f"; and {len(failed) - 3} more outputs" if len(failed) > 3 else ""
            message = again + "; ".join(f"{name}: {verdicts[name].note}" for name in failed[:3]) + more
            return CaseReport(case.id, case.dtype, "fail", message, verdicts)
    return CaseReport(case.id, case.dtype, "pass", "", verdicts)


def _same(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
