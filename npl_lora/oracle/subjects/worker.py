"""The child process in which a Python subject runs: python -m npl_lora.oracle.subjects.worker TARGET [CONTRACT].

A subject may hang, crash, print, change what it is given: none of that reaches the check. Standard input and output are
moved to private descriptors first, so that nothing a subject prints can get between the frames.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from ..case import Case
from . import TargetError
from .convert import AnswerError, describe, to_arrays
from .frames import FrameError, read_frame, write_frame
from .targets import load

Function = Callable[[Case], Any]


def main() -> None:
    """Load the target, say what contracts it bears, then answer case after case until the pipe ends."""
    questions, answers = _private_pipes()
    target, contract = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
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
        write_frame(answers, *_answer(functions[case.contract], case))


def _private_pipes() -> tuple[IO[bytes], IO[bytes]]:
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return questions, answers


def _answer(function: Function, case: Case) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Ask twice, for state must not leak from a call to the next. Answers of call k are named k:name."""
    arrays = {}
    for call in range(2):
        given = case.copy()
        try:
            outputs = to_arrays(function(given))
        except NotImplementedError as error:
            return {"absent": str(error) or "not supported"}, {}
        except AnswerError as error:
            return {"error": str(error)}, {}
        except Exception as error:  # the subject's, whatever it is
            return {"error": describe(error)}, {}
        if changed := _changed(case, given):
            return {"error": f"changed its input {', '.join(changed)}"}, {}
        arrays |= {f"{call}:{name}": array for name, array in outputs.items()}
    return {"calls": 2}, arrays


def _changed(case: Case, given: Case) -> list[str]:
    names = [name for name, array in case.arrays.items() if not _same(array, given.arrays.get(name))]
    same_config = json.dumps(given.config, sort_keys=True) == json.dumps(case.config, sort_keys=True)
    return names if same_config else [*names, "config"]


def _same(a: np.ndarray, b: np.ndarray | None) -> bool:
    return b is not None and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


if __name__ == "__main__":
    main()
