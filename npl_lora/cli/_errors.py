"""How a command ends early: with one sentence on standard error, and an exit status."""

import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..support.extras import MissingExtraError
from ..support.ranks import Ranks

_COURTESY = 3.0  # seconds that other ranks leave rank 0 to speak first: most errors happen on every rank
_FORWARDING = 0.3  # seconds that mpiexec needs to pass on the sentence before it ends every rank


class CommandError(Exception):
    """The command ends with this sentence and this exit status, which is 2 where the input cannot be used."""

    def __init__(self, sentence: str, status: int = 2) -> None:
        super().__init__(sentence)
        self.status = status


@contextmanager
def command_errors(path: Path | None = None) -> Iterator[None]:
    """Turn what the package raises for bad input, ValueError and OSError, into CommandError. An OSError that names no
    file is about `path`."""
    try:
        yield
    except BrokenPipeError:
        raise
    except ValueError as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CommandError(f"{error.filename or path}: {error.strerror}") from None


@contextmanager
def end_together(ranks: Ranks) -> Iterator[None]:
    """End every rank when one of them ends early: the others would wait for it forever."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if ranks.size == 1:
            raise
        sentence, status = _last_words(error)
        if ranks.rank > 0:
            time.sleep(_COURTESY)
        print_error(f"rank {ranks.rank} of {ranks.size}: {sentence}")
        time.sleep(_FORWARDING)
        ranks.abort(status)


def _last_words(error: BaseException) -> tuple[str, int]:
    """The sentence and the exit status. An unexpected error prints its traceback first."""
    match error:
        case CommandError():
            return str(error), error.status
        case MissingExtraError():
            return str(error), 2
        case KeyboardInterrupt():
            return "interrupted", 130
    traceback.print_exception(error)
    return f"{type(error).__name__}: {error}", 1


def print_error(sentence: str) -> None:
    """One line on standard error, in one write: several ranks may share it."""
    sys.stderr.write(f"npl-lora: {sentence}\n")
    sys.stderr.flush()
