"""Frames exchanged with a worker process, with a deadline that always holds, whatever the worker does."""

import queue
import subprocess
import threading
import time
import weakref
from collections.abc import Sequence
from typing import IO

from .children import OutputTail, describe_exit, kill_group
from .frames import Frame, FrameError, PipeEndError, read_frame, write_frame

_POLL = 0.2  # seconds between checks that the worker is still alive

_Questions = queue.SimpleQueue[Frame | None]
_Replies = queue.SimpleQueue[Frame | Exception]


class NoReplyError(Exception):
    """Why the worker gave no reply. It has been killed."""


class Conversation:
    """A worker process and the frames to and from it.

    A thread reads and writes the pipes, so a worker that hangs cannot block the check. The worker ends with close(),
    when this object is garbage-collected, or when the interpreter exits.
    """

    def __init__(self, command: Sequence[str]) -> None:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._tail = OutputTail(process.stderr)
        self._questions: _Questions = queue.SimpleQueue()
        self._replies: _Replies = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=_exchange_frames, args=(process.stdin, process.stdout, self._questions, self._replies), daemon=True
        )
        self._thread.start()
        self._end = weakref.finalize(self, _end, process, self._questions)

    def reply(self, timeout: float, question: Frame | None = None) -> Frame:
        """Send a question, if there is one, and wait for a frame. Raises NoReplyError if none arrives."""
        if question is not None:
            self._questions.put(question)
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            ended = self._process.poll() is not None
            try:
                reply = self._replies.get(timeout=max(0.0, min(left, _POLL)))
            except queue.Empty:
                # The worker ended but its pipe is open: a child of the worker holds it.
                if not ended and left > 0:
                    continue
                self.close()
                raise NoReplyError(self._exit_reason() if ended else f"took longer than {timeout:g} s") from None
            if isinstance(reply, Exception):
                garbage = isinstance(reply, FrameError) and not isinstance(reply, PipeEndError)
                reason = f"answered garbage: {reply}" if garbage else self._exit_reason()
                self.close()
                raise NoReplyError(reason)
            return reply

    def close(self) -> None:
        """Kill the worker and its children."""
        self._end()
        self._thread.join(timeout=0.5)

    def _exit_reason(self) -> str:
        try:
            self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:  # still alive
            return "its process closed its pipe"
        return f"its process {describe_exit(self._process, self._tail.last_line())}"


def _exchange_frames(stdin: IO[bytes], stdout: IO[bytes], questions: _Questions, replies: _Replies) -> None:
    """The thread's loop: read the greeting, then write each question and read its answer, until one of them fails."""
    try:
        replies.put(read_frame(stdout))
        while (question := questions.get()) is not None:
            write_frame(stdin, *question)
            replies.put(read_frame(stdout))
    except (FrameError, OSError, MemoryError) as error:
        replies.put(error)
    for pipe in (stdin, stdout):
        _close(pipe)


def _close(pipe: IO[bytes]) -> None:
    try:
        pipe.close()
    except OSError:  # unwritten data has no reader any more
        return


def _end(process: subprocess.Popen[bytes], questions: _Questions) -> None:
    kill_group(process)
    questions.put(None)
