"""A worker process as the one that measures sees it: a line goes in, an answer comes out, and its memory is watched."""

import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import memory
from .settings import BenchError, Settings

# The worker is to be the same npl_lora as this one. With -P the current folder is not searched: a math.py that lies
# there would become Python's own.
_ROOT = str(Path(__file__).resolve().parents[3])
_START = (
    f"import sys; {_ROOT!r} in sys.path or sys.path.insert(0, {_ROOT!r}); "
    "from npl_lora.training.bench.worker import main; main()"
)
_LOOK = 0.02  # seconds between looks at its memory


class Child:
    """side: its name. environment: all of it. Use it in a with statement: it ends with that."""

    def __init__(self, side: str, environment: Mapping[str, str]) -> None:
        self.side, self.most = side, {"anonymous": 0}
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        pipes: Any = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._words, text=True)
        command = [sys.executable, "-P", "-c", _START, side]
        self._process = subprocess.Popen(command, env=dict(environment), **pipes)
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def load(self, settings: Settings) -> dict[str, Any]:
        """What it says of the model that it has loaded. Raises BenchError."""
        return self._ask(json.dumps(asdict(settings)))

    def step(self) -> dict[str, Any]:
        """What it says of the step that it took now. Raises BenchError."""
        return self._ask("step")

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()
        for pipe in (self._process.stdin, self._process.stdout, self._words):
            pipe.close()  # type: ignore[union-attr]

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            print(line, file=self._process.stdin, flush=True)
            answer = json.loads(self._line())
        except (BrokenPipeError, json.JSONDecodeError):
            raise BenchError(f"the {self.side} side ended {self._how()}") from None
        if "problem" in answer:
            raise BenchError(answer["problem"])
        return dict(answer)

    def _line(self) -> str:
        """The next, with an eye on the memory while it lasts. Empty when the process has ended."""
        while True:
            found = memory.used(self._process.pid).get("anonymous", 0)
            self.most["anonymous"] = max(self.most["anonymous"], found)
            try:
                return self._lines.get(timeout=_LOOK)
            except queue.Empty:
                continue

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _how(self) -> str:
        status = self._process.wait()
        self._words.seek(0)
        said = self._words.read().decode(errors="replace").strip().splitlines()
        how = f"with status {status}" if status >= 0 else f"by signal {-status}"
        return f"{how}: {said[-1][:400]}" if said else f"{how}, perhaps for want of memory" if status == -9 else how
