"""The largest numbers that a dump may hold: no product of its inputs, squared for a variance, may overflow float64.
With larger numbers a right answer could look wrong, so such a dump is not judged."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .file import DumpError

_REACH = 1e100
_BLOCK = 1 << 21  # numbers


def check_reach(arrays: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> None:
    """Raises DumpError if a number is NaN, or if the product of the largest numbers, one from each input and from each
    entry of the configuration, exceeds 1e100."""
    largest = {name: _largest(np.atleast_1d(array)) for name, array in {**arrays, **_numbers(config)}.items()}
    if not math.prod(max(1.0, top) for top in largest.values()) < _REACH:
        name, top = max(largest.items(), key=lambda item: (math.isnan(item[1]), item[1]))
        raise DumpError(
            f"{name[:40]} is as large as {top:.3g}: products of inputs exceed {_REACH:g}, too large to judge"
        )


def _numbers(config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The numbers in a configuration that may enter products: numbers, such as alpha, and lists of numbers."""
    numbers = {}
    for name, value in config.items():
        values = value if isinstance(value, list) else [value]
        if values and all(type(v) in (int, float) for v in values):
            numbers[name] = np.array([min(abs(v), 10**300) for v in values], dtype=np.float64)
    return numbers


def _largest(array: np.ndarray) -> float:
    """max |a|, block by block, because the array may be larger than memory. NaN if one of the numbers is NaN."""
    maxima = [float(np.max(np.abs(np.asarray(block, np.float64)))) for block in _blocks(array)]
    return math.nan if any(map(math.isnan, maxima)) else max(maxima, default=0.0)


def _blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    table = array.reshape(-1, array.shape[-1])
    step = max(1, _BLOCK // max(1, table.shape[1]))
    return (table[start : start + step] for start in range(0, table.shape[0], step) if table.shape[1])
