"""The child process in which a Python subject runs: python -m npl_lora.oracle.subjects.worker TARGET [CONTRACT].

A subject may hang, crash, print, change what it is given: none of that reaches the check. Standard input and output are
moved to private descriptors first, so that nothing a subject prints can get between the frames.
"""

import copy
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np

from ..case import Case
from . import TargetError
from .convert import AnswerError, to_arrays
from .frames import Frame, FrameError, read_frame, write_frame
from .one_line import describe, first_line
from .targets import load

CALLS = 2  # a case is asked twice: state must not leak from a call to the next

Function = Callable[[Case], Any]


def main() -> None:
    """Load the target, say what contracts it bears, then answer case after case until the pipe ends."""
    questions, answers = _private_pipes()
    target, contract = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
    sys.argv[:] = [target]  # what it would see if it were run by itself
    try:
        functions = load(target, contract)
    except TargetError as error:
        write_frame(answers, {"problem": str(error)}, {})
        return
    write_frame(answers, {"contracts": list(functions)}, {})
    while True:
        try:
            header, arrays = read_frame(questions)
        except FrameError:
            return
        case = Case(header["contract"], header["id"], header["dtype"], header["config"], arrays)
        _reply(answers, _answer(functions[case.contract], case))


def _private_pipes() -> tuple[IO[bytes], IO[bytes]]:
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return questions, answers


def _reply(answers: IO[bytes], frame: Frame) -> None:
    try:
        write_frame(answers, *frame)
    except FrameError as error:  # too large; nothing of it has been written
        write_frame(answers, {"error": f"answered {error}"}, {})


def _answer(function: Function, case: Case) -> Frame:
    """Ask again and again. The answers of call k are named k:name."""
    answers: dict[str, np.ndarray] = {}
    for call in range(CALLS):
        again = "the second call: " if call else ""
        given = dataclasses.replace(case.copy(), config=copy.deepcopy(case.config))
        try:
            outputs = function(given)
        except NotImplementedError as error:
            if not call:
                return {"absent": first_line(str(error)) or "not supported"}, {}
            return {"error": again + describe(error)}, {}
        except Exception as error:  # the subject's, whatever it is
            return {"error": again + describe(error)}, {}
        try:
            arrays = to_arrays(outputs)
        except AnswerError as error:
            return {"error": again + str(error)}, {}
        if changed := _changed(case, given):
            return {"error": f"{again}changed its input {', '.join(changed)}"}, {}
        answers |= {f"{call}:{name}": array for name, array in arrays.items()}
    return {"calls": CALLS}, answers


def _changed(case: Case, given: Case) -> list[str]:
    """The inputs that are no longer what they were."""
    names = [name for name, array in case.arrays.items() if not _same(array, given.arrays.get(name))]
    return names if _text(given.config) == _text(case.config) else [*names, "config"]


def _same(a: np.ndarray, b: np.ndarray | None) -> bool:
    return b is not None and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _text(config: Mapping[str, Any]) -> str | None:
    try:
        return json.dumps(config, sort_keys=True)
    except (TypeError, ValueError, RecursionError):  # something was put in that never was in a case
        return None


if __name__ == "__main__":
    main()
