"""The child process: it loads a model, says so, and then takes a step for each line that it reads.

Lines are JSON. The first is the settings; the answer says what was loaded, or bears a "problem", one sentence. What
libraries print goes to standard error, where it cannot be taken for an answer.
"""

import importlib
import json
import os
import sys
import time
from typing import Any

from ..step import NonFiniteError
from . import memory
from .settings import SIDES, Settings


def main() -> None:
    """argv[1]: the side. Ends when there are no more lines."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for answer in _answers(sys.argv[1]):
        print(json.dumps(answer), file=answers, flush=True)


def _answers(name: str) -> Any:
    try:
        side = importlib.import_module(f".{SIDES[name]}", __package__).Side(
            Settings(**json.loads(sys.stdin.readline()))
        )
        yield {**side.about, "memory": memory.used()}
        for step, _ in enumerate(sys.stdin):
            begin = time.perf_counter()
            loss = side.step(step)
            yield {"seconds": time.perf_counter() - begin, "loss": loss, "memory": memory.used()}
    except (ValueError, NonFiniteError) as error:
        yield {"problem": " ".join(str(error).split())[:400]}
