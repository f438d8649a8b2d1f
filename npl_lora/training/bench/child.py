"""A worker process, seen from the process that measures: send a line, read the reply, and sample its memory."""

import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import memory
from .settings import BenchError, Settings

# The worker must import the same npl_lora as this process. With -P Python does not search the current folder, where a
# math.py would replace the standard one.
_ROOT = str(Path(__file__).resolve().parents[3])
_START = (
    f"import sys; {_ROOT!r} in sys.path or sys.path.insert(0, {_ROOT!r}); "
    "from npl_lora.training.bench.worker import main; main()"
)
_INTERVAL = 0.02  # seconds between two samples of its memory


class Child:
    """side: its name. environment: the complete environment. Use it in a with statement, which ends the process."""

    def __init__(self, side: str, environment: Mapping[str, str]) -> None:
        self.side, self.most = side, {"anonymous": 0}
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - stays open as long as the process runs
        pipes: Any = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._words, text=True)
        command = [sys.executable, "-P", "-c", _START, side]
        self._process = subprocess.Popen(command, env=dict(environment), **pipes)
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def load(self, settings: Settings) -> dict[str, Any]:
        """Load the model. Returns the worker's facts about it. Raises BenchError."""
        return self._ask(json.dumps(asdict(settings)))

    def step(self) -> dict[str, Any]:
        """Take a step. Returns the worker's figures for it. Raises BenchError."""
        return self._ask("step")

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()
        for pipe in (self._process.stdin, self._process.stdout, self._words):
            with suppress(BrokenPipeError):  # a process that is gone took the end of what was written with it
                pipe.close()  # type: ignore[union-attr]

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            print(line, file=self._process.stdin, flush=True)
            reply = json.loads(self._line())
        except (BrokenPipeError, json.JSONDecodeError):
            raise BenchError(f"the {self.side} side ended {self._exit_reason()}") from None
        if "problem" in reply:
            raise BenchError(reply["problem"])
        return dict(reply)

    def _line(self) -> str:
        """The next line, empty if the process has ended. Samples the memory while it waits."""
        while True:
            anonymous = memory.used(self._process.pid).get("anonymous", 0)
            self.most["anonymous"] = max(self.most["anonymous"], anonymous)
            try:
                return self._lines.get(timeout=_INTERVAL)
            except queue.Empty:
                continue

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _exit_reason(self) -> str:
        status = self._process.wait()
        self._words.seek(0)
        lines = self._words.read().decode(errors="replace").strip().splitlines()
        reason = f"with status {status}" if status >= 0 else f"by signal {-status}"
        if lines:
            return f"{reason}: {lines[-1][:400]}"
        return f"{reason}, perhaps out of memory" if status == -9 else reason
