"""The worker process: it loads a model, reports it, and then takes a step for each line that it reads.

Lines are JSON. The first holds the settings. The reply describes the loaded model, or has a "problem", one sentence.
Output of libraries goes to standard error, so it is never mistaken for a reply.
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
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for reply in _replies(sys.argv[1]):
        print(json.dumps(reply), file=output, flush=True)


def _replies(name: str) -> Any:
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
