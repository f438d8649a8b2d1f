"""Saying how far a diagnosis has come."""

from collections.abc import Callable

OnProgress = Callable[[str, int, int], None]  # (what is being done, how much is done, how much there is)


def silent(what: str, done: int, total: int) -> None:
    """Nobody is told."""
