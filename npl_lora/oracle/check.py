"""Checking a subject: every case of every contract that it bears, one by one, and the report of it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np

from .case import Case
from .contracts import CONTRACTS
from .contracts.judging import judge_case
from .diagnosis import diagnose
from .dtypes import DTYPES, askable, computable
from .report import CaseReport, ContractReport, Observed, Report
from .subjects import Answer, Subject
from .tolerance.judge import right_answer
from .tolerance.rounding import INNER


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
    INNER, that the user allows. on_case(target, case id, cases done, cases in all) is called before each
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
