"""What a command says when it ends early, alone or as one of many ranks."""

import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from ..support.ranks import Ranks

_COURTESY = 3.0  # seconds in which rank 0 says what it has to say, and all end: most that goes wrong does so everywhere
_PASSED_ON = 0.3  # seconds for mpiexec to pass on what was said, before it ends all


def ended(command: str, ranks: Ranks, sentence: str, status: int) -> int:
    """Say why it ends. One rank's end is that of all: the others would wait for it for ever."""
    if ranks.size == 1:
        print(f"npl-lora {command}: {sentence}", file=sys.stderr)
        return status
    if ranks.rank > 0:
        time.sleep(_COURTESY)
    sys.stderr.write(f"npl-lora {command}: rank {ranks.rank} of {ranks.size}: {sentence}\n")
    sys.stderr.flush()
    time.sleep(_PASSED_ON)
    ranks.abort(status)


@contextmanager
def together(command: str, ranks: Ranks) -> Iterator[None]:
    """What nobody expected ends all ranks, too."""
    try:
        yield
    except Exception as error:
        if ranks.size == 1:
            raise
        traceback.print_exc()
        ended(command, ranks, f"{type(error).__name__}: {error}", 1)
    except KeyboardInterrupt:
        if ranks.size == 1:
            raise
        ended(command, ranks, "interrupted", 130)
