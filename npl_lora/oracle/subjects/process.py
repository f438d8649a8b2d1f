"""A Python subject, asked through a worker process: it may hang or crash, and the check goes on."""

import contextlib
import subprocess
import sys
import threading
from typing import Any

import numpy as np

from ..case import Case
from . import Answer, TargetError
from .children import LastWords, ending, kill_group
from .frames import FrameError, read_frame, write_frame

_LOADING = 300.0  # seconds that importing a target may take


class ProcessSubject:
    """target: a file, importable code or a shipped library; contract: ask it for this one. timeout: seconds a case.

    Raises TargetError when the target cannot be loaded.
    """

    def __init__(self, target: str, contract: str | None = None, timeout: float = 60.0) -> None:
        self.name = target
        self._contract = contract
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self.contracts = tuple(self._start())

    def ask(self, case: Case) -> Answer:
        """Both answers of the subject to a case; or why there are none."""
        try:
            if self._process is None:
                self._start()
            header = {"contract": case.contract, "id": case.id, "dtype": case.dtype, "config": case.config}
            reply, arrays = self._exchange(header, dict(case.arrays), self._timeout)
        except (TargetError, _EndedError) as error:
            return Answer(error=str(error))
        if "calls" not in reply:
            return Answer(absent=reply.get("absent"), error=reply.get("error"))
        return Answer(outputs=tuple(_call(arrays, call) for call in range(reply["calls"])))

    def close(self) -> None:
        """End the worker."""
        if self._process is not None:
            process, self._process = self._process, None
            kill_group(process)
            for pipe in (process.stdin, process.stdout, process.stderr):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]

    def _start(self) -> list[str]:
        words = [sys.executable, "-m", "npl_lora.oracle.subjects.worker", self.name]
        self._process = subprocess.Popen(
            words + ([self._contract] if self._contract else []),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._words = LastWords(self._process.stderr)  # type: ignore[arg-type]
        try:
            reply, _ = self._exchange(None, {}, _LOADING)
        except _EndedError as error:
            raise TargetError(f"{self.name} cannot be loaded: {error}") from None
        if "problem" in reply:
            self.close()
            raise TargetError(reply["problem"])
        return reply["contracts"]

    def _exchange(
        self, header: dict[str, Any] | None, arrays: dict[str, np.ndarray], timeout: float
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Send a question, if there is one, and wait for a frame. Raises _EndedError, with the worker closed, if none comes.

        A timer kills the worker when the time is over: that ends every read and write on its pipes.
        """
        process, late = self._process, threading.Event()
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None

        def expire() -> None:
            late.set()
            kill_group(process)

        timer = threading.Timer(timeout, expire)
        timer.start()
        try:
            if header is not None:
                write_frame(process.stdin, header, arrays)
            reply = read_frame(process.stdout)
        except (FrameError, OSError, ValueError) as error:
            timer.cancel()
            why = f"took longer than {timeout:g} s" if late.is_set() else self._how_it_ended(process, error)
            self.close()
            raise _EndedError(why) from None
        finally:
            timer.cancel()
        return reply

    def _how_it_ended(self, process: subprocess.Popen[bytes], error: Exception) -> str:
        try:
            process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:  # alive, but it wrote what is no frame
            return f"answered garbage: {error}"
        return f"its process {ending(process, self._words.line())}"


class _EndedError(Exception):
    """The worker gave no answer, and why."""


def _call(arrays: dict[str, np.ndarray], call: int) -> dict[str, np.ndarray]:
    prefix = f"{call}:"
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
