"""Reporting the progress of a long judgement."""

from collections.abc import Iterable, Iterator

from ..diagnosis.progress import OnProgress, silent


class Progress:
    """on_progress(what, done, total) is called before each block of an axis of length total."""

    def __init__(self, on_progress: OnProgress = silent) -> None:
        self._on_progress = on_progress

    def track(self, blocks: Iterable[slice], what: str, total: int) -> Iterator[slice]:
        """Yield the blocks, and report each one before it is worked on."""
        for block in blocks:
            self._on_progress(what, block.start, total)
            yield block
