"""A right answer consists of several arrays: apply a function to all of them, or join the right answers of blocks."""

from collections.abc import Callable

import numpy as np

from ..tolerance.judge import Right


def map_arrays(right: Right, function: Callable[[np.ndarray], np.ndarray]) -> Right:
    """Apply a function to every array of a right answer."""
    value, size, allowed, deviation, proven = (function(array) for array in _arrays(right))
    return Right(value, size, allowed, deviation, proven)


def join(blocks: list[Right], axis: int) -> Right:
    """Join the right answers of blocks along an axis."""
    columns = zip(*map(_arrays, blocks), strict=True)
    value, size, allowed, deviation, proven = (np.concatenate(arrays, axis=axis) for arrays in columns)
    return Right(value, size, allowed, deviation, proven)


def _arrays(right: Right) -> tuple[np.ndarray, ...]:
    return right.value, right.size, right.allowed, right.deviation, right.proven
