"""Judging a dump: one step out of somebody's own training run, inputs and answers in one safetensors file.

    from npl_lora.oracle.dumps import judge_dump
    judge_dump(Path("step.safetensors")).verdict          # "pass", "fail" or "error"

A lora_linear step may be of any size, and may lack arrays. Dumps of the other contracts are judged as cases are.

Reading order: file, step, gradients, rows, identities, linear.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..._extras import MissingExtraError
from ..case import Case
from ..check import CaseReport, ContractReport, Report, judge_case
from ..contracts import CONTRACTS
from ..judge import OutputVerdict
from ..subjects.one_line import describe
from .file import Dump, DumpError, open_dump
from .linear import judge_step
from .progress import Progress
from .step import lora_linear_step

_CASE_LIMIT = 1 << 20  # numbers in a dump that is judged as a case is, which takes some hundred times its memory

__all__ = ["judge_dump"]


def judge_dump(path: Path, on_progress: Callable[[str, int, int], None] | None = None) -> Report:
    """The report on one dump. Its verdict is "error" when nothing in it could be judged; no fault of the file raises.

    on_progress(what, done, total) is called before each block of work.
    """
    try:
        dump = open_dump(path)
        case = _judge(dump, Progress(on_progress))
    except (DumpError, MissingExtraError) as error:
        return Report(str(path), problem=str(error))
    except MemoryError:
        return Report(str(path), problem="cannot be judged in the memory there is")
    return Report(str(path), (ContractReport(dump.contract, (case,)),))


def _judge(dump: Dump, progress: Progress) -> CaseReport:
    if dump.contract == "lora_linear":
        verdicts, unseen = judge_step(lora_linear_step(dump), progress)
    else:
        verdicts, unseen = _judge_as_case(dump), []
    failed = [f"{name}: {verdict.note}" for name, verdict in verdicts.items() if verdict.verdict == "fail"]
    verdict = "fail" if failed else "pass" if verdicts else "absent"
    message = "; ".join([*failed, *(["could not be seen: " + "; ".join(unseen)] if unseen else [])])
    return CaseReport(dump.id, dump.dtype, verdict, message, verdicts)


def _judge_as_case(dump: Dump) -> dict[str, OutputVerdict]:
    """A dump of any other contract: all its inputs there, and small."""
    if (numbers := sum(array.size for array in dump.arrays.values())) > _CASE_LIMIT:
        raise DumpError(f"has {numbers:,} numbers, expected at most {_CASE_LIMIT:,} for {dump.contract}")
    kinds = {_kind(name) for case in CONTRACTS[dump.contract].cases(dump.dtype) for name in case.arrays}
    inputs = {name for name in dump.arrays if _kind(name) in kinds}
    arrays = {name: np.array(array) for name, array in dump.arrays.items()}
    case = Case(dump.contract, dump.id, dump.dtype, dump.config, {n: a for n, a in arrays.items() if n in inputs})
    try:
        return judge_case(case, {name: _native(a) for name, a in arrays.items() if name not in inputs})
    except Exception as error:  # shapes and configuration are somebody's, and may be anything
        raise DumpError(f"is no case of {dump.contract}: {describe(error)}") from None


def _kind(name: str) -> str:
    """A_1, A_2 and A_7 are inputs of one kind."""
    return name.rstrip("0123456789")


def _native(array: np.ndarray) -> np.ndarray:
    """bfloat16 as float32, which holds it: the judge asks for NumPy's own dtypes."""
    return array if array.dtype.isbuiltin == 1 else array.astype(np.float32)
