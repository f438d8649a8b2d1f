"""Frames exchanged with a worker process, with a deadline that holds whatever the worker does."""

import queue
import subprocess
import threading
import time
import weakref
from collections.abc import Sequence
from typing import IO

from .children import LastWords, ending, kill_group
from .frames import Frame, FrameError, PipeEndError, read_frame, write_frame

_LOOK = 0.2  # seconds between looks at whether the worker is still there

_Questions = queue.SimpleQueue[Frame | None]
_Replies = queue.SimpleQueue[Frame | Exception]


class SilenceError(Exception):
    """The worker gave no answer, and why. It has been killed."""


class Conversation:
    """A worker process and the frames to and from it.

    A thread reads and writes the pipes, so that a worker that neither reads, writes nor ends cannot stop the check. The
    worker ends with close(), when this object is garbage, and when the interpreter exits.
    """

    def __init__(self, command: Sequence[str]) -> None:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._words = LastWords(process.stderr)
        self._questions: _Questions = queue.SimpleQueue()
        self._replies: _Replies = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=_talk, args=(process.stdin, process.stdout, self._questions, self._replies), daemon=True
        )
        self._thread.start()
        self._end = weakref.finalize(self, _end, process, self._questions)

    def reply(self, timeout: float, question: Frame | None = None) -> Frame:
        """Send a question, if there is one, and wait for a frame. Raises SilenceError if none comes."""
        if question is not None:
            self._questions.put(question)
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            ended = self._process.poll() is not None
            try:
                reply = self._replies.get(timeout=max(0.0, min(left, _LOOK)))
            except queue.Empty:
                # Ended, and the pipe has not: a child of the worker's has it.
                if not ended and left > 0:
                    continue
                self.close()
                raise SilenceError(self._how_it_ended() if ended else f"took longer than {timeout:g} s") from None
            if isinstance(reply, Exception):
                garbage = isinstance(reply, FrameError) and not isinstance(reply, PipeEndError)
                why = f"answered garbage: {reply}" if garbage else self._how_it_ended()
                self.close()
                raise SilenceError(why)
            return reply

    def close(self) -> None:
        """End the worker and its children, now."""
        self._end()
        self._thread.join(timeout=0.5)

    def _how_it_ended(self) -> str:
        try:
            self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:  # alive still
            return "its process closed its pipe"
        return f"its process {ending(self._process, self._words.line())}"


def _talk(stdin: IO[bytes], stdout: IO[bytes], questions: _Questions, replies: _Replies) -> None:
    """What the thread does: read the greeting, then write a question and read its answer, until one fails."""
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
    except OSError:  # what was left to write has no reader any more
        return


def _end(process: subprocess.Popen[bytes], questions: _Questions) -> None:
    kill_group(process)
    questions.put(None)
