"""The child process in which a Python subject runs: python -m npl_lora.oracle.subjects.worker TARGET [CONTRACTS].

A subject may hang, crash, print or change its inputs. None of this affects the check. Standard input and output are
first moved to private descriptors, so nothing that a subject prints can get between the frames.
"""

import os
import sys
from typing import IO

from ..case import Case
from . import Answer, TargetError
from .frames import Frame, FrameError, read_frame, write_frame
from .in_process import ask
from .targets import load


def main() -> None:
    """Load the target, send the contracts it implements, then answer one case after another until the pipe ends."""
    questions, answers = _private_pipes()
    target, contracts = sys.argv[1], sys.argv[2].split(",") if len(sys.argv) > 2 else None
    sys.argv[:] = [target]  # what the target would see if run by itself
    try:
        loaded = load(target, contracts)
    except TargetError as error:
        write_frame(answers, {"problem": str(error)}, {})
        return
    adoption = None if loaded.adoption is None else loaded.adoption.as_json()
    write_frame(answers, {"contracts": list(loaded.functions), "adoption": adoption, "layers": list(loaded.layers)}, {})
    while True:
        try:
            header, arrays = read_frame(questions)
        except FrameError:
            return
        case = Case(header["contract"], header["id"], header["dtype"], header["config"], arrays)
        _reply(answers, _frame(ask(loaded.functions[case.contract], case)))


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
    except FrameError as error:  # too large; none of it was written
        write_frame(answers, {"error": f"answered {error}"}, {})


def _frame(answer: Answer) -> Frame:
    """An answer as a frame. The outputs of call k are named k:name."""
    if answer.outputs is None:
        return {"absent": answer.absent, "error": answer.error}, {}
    calls = enumerate(answer.outputs)
    arrays = {f"{call}:{name}": array for call, outputs in calls for name, array in outputs.items()}
    return {"calls": len(answer.outputs)}, arrays


if __name__ == "__main__":
    main()
