"""Child processes that are sure to end: each leads a process group, which is killed as a whole."""

import contextlib
import os
import signal
import subprocess
import threading
from typing import IO

_KEEP = 4096  # bytes of the last words


class LastWords:
    """Reads a pipe to its end in a thread, so that the writer never blocks, and remembers only what came last."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._tail = b""
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        with contextlib.suppress(ValueError, OSError):  # closed under our hands: the process is gone
            while chunk := self._pipe.read1(65536):  # type: ignore[attr-defined]
                self._tail = (self._tail + chunk)[-_KEEP:]

    def line(self) -> str:
        """The last line that is not empty."""
        self._thread.join(timeout=0.5)
        lines = [line.strip() for line in self._tail.decode(errors="replace").splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all its children, now."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)  # its group bears its own number: start_new_session
        else:
            process.kill()
    process.wait()


def ending(process: subprocess.Popen[bytes], words: str) -> str:
    """How a process ended, and its last words."""
    status = process.returncode
    how = f"ended by signal {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    return f"{how}: {words}" if words else how
