"""A right answer as several arrays: move all of them alike, or join the right answers of several blocks."""

from collections.abc import Callable

import numpy as np

from ..tolerance.judge import Right


def each(right: Right, move: Callable[[np.ndarray], np.ndarray]) -> Right:
    """move, applied to every array of the right answer."""
    value, size, allowed, deviation, proven = (move(array) for array in _arrays(right))
    return Right(value, size, allowed, deviation, proven)


def join(blocks: list[Right], axis: int) -> Right:
    """The right answer whose blocks along the axis these are."""
    columns = zip(*map(_arrays, blocks), strict=True)
    value, size, allowed, deviation, proven = (np.concatenate(arrays, axis=axis) for arrays in columns)
    return Right(value, size, allowed, deviation, proven)


def _arrays(right: Right) -> tuple[np.ndarray, ...]:
    return right.value, right.size, right.allowed, right.deviation, right.proven
