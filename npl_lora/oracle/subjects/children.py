"""Child processes that are sure to end: each leads a process group, which is killed as a whole."""

import contextlib
import os
import signal
import subprocess
import threading
from typing import IO

from .one_line import last_line

_KEEP = 4096  # bytes of the last words


class LastWords:
    """Reads a pipe to its end in a thread, so that the writer never blocks, and remembers only what came last.

    The thread owns the pipe and closes it: a process that left the group may hold the other end for ever, and closing
    a pipe under somebody's read would wait as long.
    """

    def __init__(self, pipe: IO[bytes]) -> None:
        self._tail = b""
        self._thread = threading.Thread(target=self._drain, args=(pipe,), daemon=True)
        self._thread.start()

    def _drain(self, pipe: IO[bytes]) -> None:
        with pipe:
            while chunk := os.read(pipe.fileno(), 65536):
                self._tail = (self._tail + chunk)[-_KEEP:]

    def line(self) -> str:
        """The last line that is not empty."""
        self._thread.join(timeout=0.5)
        return last_line(self._tail.decode(errors="replace"))


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all its children, now."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)  # its group bears its own number: start_new_session
        else:
            process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel: it ends when that lets go
        process.wait(timeout=5.0)


def ending(process: subprocess.Popen[bytes], words: str) -> str:
    """How a process ended, and its last words."""
    status = process.returncode
    how = f"ended with status {status}" if status is None or status >= 0 else f"ended by signal {_signal(-status)}"
    return with_words(how, words)


def with_words(what: str, words: str) -> str:
    """What happened, and the last words if there are any."""
    return f"{what}: {words}" if words else what


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal: it has no name
        return str(number)
