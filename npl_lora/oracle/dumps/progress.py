"""Telling whoever waits how far a long judgement is."""

from collections.abc import Callable, Iterable, Iterator


class Progress:
    """on_progress(what, done, total) is called before each block of an axis of length total."""

    def __init__(self, on_progress: Callable[[str, int, int], None] | None = None) -> None:
        self._tell = on_progress

    def through(self, blocks: Iterable[slice], what: str, total: int) -> Iterator[slice]:
        for block in blocks:
            if self._tell is not None:
                self._tell(what, block.start, total)
            yield block
