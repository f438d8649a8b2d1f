"""Child processes that are sure to end: each leads a process group, and the whole group is killed."""

import contextlib
import os
import signal
import subprocess
import threading
from typing import IO

from ..one_line import last_line

_KEEP = 4096  # bytes of the output's tail


class OutputTail:
    """Reads a pipe to its end in a thread, so that the writer never blocks, and keeps only the tail.

    The thread owns the pipe and closes it. A process that left the group may hold the other end open forever, and
    closing the pipe from here while the thread reads would block just as long.
    """

    def __init__(self, pipe: IO[bytes]) -> None:
        self._tail = b""
        self._thread = threading.Thread(target=self._drain, args=(pipe,), daemon=True)
        self._thread.start()

    def _drain(self, pipe: IO[bytes]) -> None:
        with pipe:
            while chunk := os.read(pipe.fileno(), 65536):
                self._tail = (self._tail + chunk)[-_KEEP:]

    def last_line(self) -> str:
        """The last line that is not empty."""
        self._thread.join(timeout=0.5)
        return last_line(self._tail.decode(errors="replace"))


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all its children."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)  # start_new_session gave its group the same number
        else:
            process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in a system call: it ends when the call returns
        process.wait(timeout=5.0)


def describe_exit(process: subprocess.Popen[bytes], line: str) -> str:
    """How a process ended, and the last line of its output."""
    status = process.returncode
    by_signal = status is not None and status < 0
    return append_line(f"ended by signal {_signal_name(-status)}" if by_signal else f"ended with status {status}", line)


def append_line(sentence: str, line: str) -> str:
    """A sentence, followed by a line of output unless the line is empty."""
    return f"{sentence}: {line}" if line else sentence


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has no name
        return str(number)
