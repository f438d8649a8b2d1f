"""The report on a dump: its verdicts, what could not be checked, and a diagnosis."""

from pathlib import Path

import numpy as np

from ...support.extras import MissingExtraError
from ...support.finite import describe_first_nonfinite
from ...support.tensor_file import TensorFileError
from ..case import Case
from ..check import observe
from ..contracts import CONTRACTS
from ..contracts.judging import judge_case
from ..diagnosis.progress import OnProgress, silent
from ..one_line import describe
from ..report import NOTHING, CaseReport, ContractReport, Diagnosis, Report
from ..subjects import Answer
from ..tolerance.judge import OutputVerdict
from .diagnosing import diagnose_all, diagnose_step
from .file import Dump, DumpError, open_dump
from .linear import judge_step
from .progress import Progress
from .reach import check_reach
from .step import Step, lora_linear_step

_CASE_LIMIT = 1 << 20  # numbers in a dump that is judged like a case; that takes about a hundred times its memory
_DIAGNOSIS_LIMIT = 1 << 15  # numbers in such a dump that is compared with everything that could be wrong


@np.errstate(all="ignore")  # overflow and signalling NaNs lead to a verdict, not a warning
def judge_dump(path: Path, inner: str | None = None, on_progress: OnProgress = silent) -> Report:
    """The report on one dump. Its verdict is "error" if nothing in it could be judged. A bad file never raises.

    inner: a key of rounding.INNER, a coarser precision that the user allows.
    on_progress(what, done, total) is called before each piece of work.
    """
    try:
        dump = open_dump(path)
        step = lora_linear_step(dump, inner) if dump.contract == "lora_linear" else None
        verdicts, gaps = judge_step(step, Progress(on_progress)) if step else (_judge_as_case(dump, inner), [])
    except (TensorFileError, MissingExtraError) as error:
        return Report(str(path), problem=str(error))
    except MemoryError:
        return Report(str(path), problem="needs more memory than there is")
    failed = {name: verdict.note for name, verdict in verdicts.items() if verdict.verdict == "fail"}
    sentences = [f"{name}: {note}" for name, note in failed.items()]
    sentences += [f"could not be checked: {'; '.join(gaps)}"] if gaps else []
    sentences += [dump.note] if dump.note else []
    overall = "fail" if failed else "pass" if verdicts else "absent"
    case = CaseReport(dump.id, dump.dtype, overall, "; ".join(sentences), verdicts)
    try:
        diagnosis = _diagnosis(dump, step, inner, case, on_progress) if failed else NOTHING
    except (MemoryError, ArithmeticError):
        diagnosis = NOTHING  # a verdict needs no reason: numbers at the limits of float64, or too many of them
    return Report(str(path), (ContractReport(dump.contract, (case,), diagnosis),))


def _judge_as_case(dump: Dump, inner: str | None) -> dict[str, OutputVerdict]:
    """The verdicts on a dump of another contract. It must be small and hold all inputs."""
    if (numbers := _numbers(dump)) > _CASE_LIMIT:
        raise DumpError(f"has {numbers:,} numbers, expected at most {_CASE_LIMIT:,} for {dump.contract}")
    case, outputs = _as_case(dump, inner)
    if problem := describe_first_nonfinite(case.arrays, case.arrays):
        raise DumpError(f"{problem}: take a step that did not overflow")
    check_reach({name: a for name, a in case.arrays.items() if a.dtype.kind not in "biu"}, case.config)
    try:
        return judge_case(case, outputs)
    except Exception as error:  # shapes and configuration come from a stranger and may be anything
        raise DumpError(f"is not a case of {dump.contract}: {describe(error)}") from None


def _diagnosis(
    dump: Dump, step: Step | None, inner: str | None, report: CaseReport, on_progress: OnProgress
) -> Diagnosis:
    """The fault behind the failures. A dump of another contract than lora_linear must be small."""
    if step:
        return diagnose_step(step, report, on_progress)
    if _numbers(dump) > _DIAGNOSIS_LIMIT:
        return NOTHING
    case, outputs = _as_case(dump, inner)
    return diagnose_all(observe([case], [Answer(outputs=(outputs,))], [report]), on_progress)


def _numbers(dump: Dump) -> int:
    return sum(array.size for array in dump.arrays.values())


def _as_case(dump: Dump, inner: str | None) -> tuple[Case, dict[str, np.ndarray]]:
    """The dump as a case, and its outputs. The inputs are the arrays that the contract's own cases have."""
    kinds = {_kind(name) for case in CONTRACTS[dump.contract].cases("float64") for name in case.arrays}
    inputs = {name: array for name, array in dump.arrays.items() if _kind(name) in kinds}
    outputs = {name: array for name, array in dump.arrays.items() if name not in inputs}
    return Case(dump.contract, dump.id, dump.dtype, dump.config, inputs, inner=inner), outputs


def _kind(name: str) -> str:
    """A_1, A_2 and A_7 are inputs of one kind."""
    return name.rstrip("0123456789")
