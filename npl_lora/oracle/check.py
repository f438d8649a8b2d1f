"""Checks a subject: asks every case of every contract it implements and reports the verdicts."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from ..support.names import Names, as_names
from .adoption import Adoption
from .adoption.facts import Fact
from .case import Case
from .contracts import CONTRACTS
from .contracts.judging import bounds, judge_case
from .conventions import state_conventions
from .diagnosis import Ask, diagnose
from .diagnosis.progress import silent
from .dtypes import computable, known
from .faults import FAULTS
from .leading import ask_as_supported
from .report import LAYER, CaseReport, Claim, ContractReport, Diagnosis, Observed, Report
from .subjects import Answer, Subject
from .tolerance.judge import right_answer
from .tolerance.rounding import INNER

_USE = {fault.fact: fault.id for fault in FAULTS if fault.fact}  # {what a layer is asked: the fault that it shows}
_SYMBOLS = ("s", "x", "y", "dx", "dy")


def check(
    subject: Subject,
    *,
    dtypes: Names | None = None,
    contract: Names | None = None,
    inner: str | None = None,
    forward_only: bool = False,
    on_case: Callable[[str, str, int, int], None] | None = None,
) -> Report:
    """Ask a subject every case of its contracts (or of those named) in these dtypes, and judge the answers.

    dtypes: a name or several; all of DTYPES by default, without bfloat16 if ml_dtypes is not installed. inner: a key of
    INNER, a coarser precision that the user allows. forward_only: judge the values alone; gradients need not be
    answered, and are ignored where they are. on_case(target, case id, cases done, total cases) is called before each
    case; and before each step of a diagnosis, with what is being done and with its own numbers.
    Raises ValueError for an unknown dtype or inner, and MissingExtraError for bfloat16 without ml_dtypes.
    """
    dtypes, wanted = known(dtypes), None if contract is None else as_names(contract)
    if inner is not None and inner not in INNER:
        raise ValueError(f"inner is {inner!r}, expected one of {', '.join(INNER)}")
    adoption: Adoption | None = getattr(subject, "adoption", None)  # only layers are adopted
    names = [name for name in subject.contracts if wanted is None or name in wanted]
    if not names and (layers := getattr(subject, "layers", ())):
        return Report(subject.name, problem=f"has layers and no functions: check one of {', '.join(layers)}")
    if not names:
        lacks, has = " or ".join(wanted or ()), ", ".join(subject.contracts)
        return Report(subject.name, problem=f"has no {lacks} (it has: {has})")
    asked_so = partial(replace, inner=inner, forward_only=forward_only)
    question = (lambda case: case) if adoption is None else adoption.question
    cases_of = {
        name: [question(asked_so(case)) for dtype in dtypes for case in CONTRACTS[name].cases(dtype)] for name in names
    }
    total, done = sum(map(len, cases_of.values())), 0
    contracts = [] if adoption is None or wanted is not None else [_facts(adoption)]
    for name, cases in cases_of.items():
        if forward_only and (reason := CONTRACTS[name].no_forward):
            absent = tuple(CaseReport(case.id, case.dtype, "absent", reason) for case in cases)
            contracts.append(ContractReport(name, absent))
            done += len(cases)
            continue
        reports, questions, answers = [], [], []
        for case in cases:
            if on_case is not None:
                on_case(subject.name, case.id, done, total)
            asked, answer, report = ask_and_judge(subject.ask, case)
            questions.append(asked)
            answers.append(answer)
            reports.append(report)
            done += 1
        proof = getattr(subject, "proof", None)  # only the package's own ops have one, and it is of their pullbacks
        reports.extend(proof(name) if proof is not None and not forward_only else ())
        observed = observe(questions, answers, reports)
        failing = tuple(one for one in observed if one.failed and one.outputs is not None)
        watch = silent if on_case is None else partial(on_case, subject.name)
        diagnosis = diagnose(observed, _asking(subject), watch)
        contracts.append(ContractReport(name, tuple(reports), diagnosis, failing))
    found, convention = ((), "") if adoption is None else (adoption.found, adoption.convention)
    values_alone = forward_only or (adoption is not None and adoption.values_alone)
    whole = Report(subject.name, tuple(contracts), forward_only=values_alone, found=found, convention=convention)
    return state_conventions(whole) if found else whole


def _facts(adoption: Adoption) -> ContractReport:
    """What was asked of a layer besides the contracts, as a row of its own."""
    reports = layer_facts(adoption)
    wrong = {fact.name: f"{_capital(_told(fact))}." for fact in adoption.facts if fact.wrong}
    claims = tuple(Claim((_USE[name],) if name in _USE else (), (), says) for name, says in wrong.items())
    ids = tuple(id_ for claim in claims for id_ in claim.ids)
    return ContractReport(LAYER, reports, Diagnosis(ids, " ".join(wrong.values()), claims=claims))


def layer_facts(adoption: Adoption) -> tuple[CaseReport, ...]:
    """A report on each fact that was asked of a layer besides the contracts."""
    return tuple(
        CaseReport(f"{LAYER}/{fact.name}/any", "any", "fail" if fact.wrong else "pass", _told(fact))
        for fact in adoption.facts
    )


def _told(fact: Fact) -> str:
    """What is wrong, with the id of the catalogue if there is one: "... (U1)"."""
    return f"{fact.wrong} ({_USE[fact.name]})" if fact.wrong and fact.name in _USE else fact.wrong


def _capital(sentence: str) -> str:
    """With a capital, unless it begins with a symbol or a name of the layer's."""
    first = sentence.partition(" ")[0]
    return sentence if first in _SYMBOLS or not first.isalpha() else sentence[0].upper() + sentence[1:]


def ask_and_judge(ask: Callable[[Case], Answer], case: Case) -> tuple[Case, Answer, CaseReport]:
    """The case as it was asked, the answer, and the report, which says so if x had another number of axes."""
    asked, answer = ask_as_supported(partial(_ask_alone, ask), case)
    report = check_case(asked, answer)
    if asked is not case:
        said = f"asked with x of {asked['x'].ndim} axes, since others are not supported"
        report = replace(report, message="; ".join(filter(None, (report.message, said))))
    return asked, answer, report


def _ask_alone(ask: Callable[[Case], Answer], case: Case) -> Answer:
    """The answer, without the outputs that are not asked for."""
    answer = ask(case)
    return replace(answer, outputs=answer.outputs and tuple(map(case.asked, answer.outputs)))


def _asking(subject: Subject) -> Ask:
    """Puts one more question to the subject: its outputs, or None."""

    def ask(case: Case) -> dict[str, np.ndarray] | None:
        answer = _ask_alone(subject.ask, case)
        return None if not answer.outputs else computable(answer.outputs[0])

    return ask


def observe(cases: Iterable[Case], answers: Iterable[Answer], reports: Iterable[CaseReport]) -> list[Observed]:
    """The observations that a diagnosis needs of a contract's cases. Empty if no case fails."""
    present = [entry for entry in zip(cases, answers, reports, strict=False) if entry[2].verdict != "absent"]
    if all(report.verdict == "pass" for _, _, report in present):
        return []
    observed = []
    for case, answer, report in present:
        contract, outputs = CONTRACTS[case.contract], answer.outputs[0] if answer.outputs else None
        case = case if contract.settle is None else contract.settle(case, outputs or {})
        case = replace(case, exact=False) if case.exact else case  # with a fault, the numbers need not be integers
        outputs = outputs and computable(outputs)
        failed = tuple(name for name, output in report.outputs.items() if output.verdict == "fail")
        objections = () if contract.settle is None else _objections(report)
        right, measured = (right_answer(case, contract.answer), {}) if contract.judge is not None else bounds(case)
        observed.append(Observed(case, right, outputs, failed, objections, measured if failed else {}))
    return observed


def _objections(report: CaseReport) -> tuple[str, ...]:
    """The notes on outputs that failed without a wrong number."""
    return tuple(o.note for o in report.outputs.values() if o.verdict == "fail" and o.error is None)


def check_case(case: Case, answer: Answer) -> CaseReport:
    """Judge the answer to a case, call by call. The first call that fails decides."""
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
            prefix = "a second call differs: " if call else ""
            more = f"; and {len(failed) - 3} more outputs" if len(failed) > 3 else ""
            message = prefix + "; ".join(f"{name}: {verdicts[name].note}" for name in failed[:3]) + more
            if set(failed) == case.gradients(verdicts).keys() - outputs.keys():
                message += "; the values are right, and can be asked alone (--forward, forward_only)"
            return CaseReport(case.id, case.dtype, "fail", message, verdicts)
    return CaseReport(case.id, case.dtype, "pass", "", verdicts)


def _same(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
