"""How large the numbers of a dump may be: so large that no product of its inputs, squared for a variance, overflows
float64. Beyond that a right answer may look wrong, so nothing is judged."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .file import DumpError

_REACH = 1e100
_BLOCK = 1 << 21  # numbers


def check_reach(arrays: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> None:
    """Raises DumpError where the product of the largest numbers, one of each input and of the configuration, passes
    1e100, or one of them is no number."""
    largest = {name: _largest(np.atleast_1d(array)) for name, array in {**arrays, **_numbers(config)}.items()}
    if not math.prod(max(1.0, top) for top in largest.values()) < _REACH:
        name, top = max(largest.items(), key=lambda item: (math.isnan(item[1]), item[1]))
        raise DumpError(f"{name[:40]} is as large as {top:.3g}: products of inputs pass {_REACH:g}, too large to judge")


def _numbers(config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The numbers of a configuration that something is multiplied by: floats, such as alpha, and lists of floats."""
    found = {}
    for name, value in config.items():
        values = value if isinstance(value, list) else [value]
        if values and all(type(v) in (int, float) for v in values):
            found[name] = np.array([min(abs(v), 10**300) for v in values], dtype=np.float64)
    return found


def _largest(array: np.ndarray) -> float:
    """max |a|, block by block: the array may be larger than the memory. NaN if one of them is."""
    tops = [float(np.max(np.abs(np.asarray(block, np.float64)))) for block in _blocks(array)]
    return math.nan if any(map(math.isnan, tops)) else max(tops, default=0.0)


def _blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    table = array.reshape(-1, array.shape[-1])
    step = max(1, _BLOCK // max(1, table.shape[1]))
    return (table[start : start + step] for start in range(0, table.shape[0], step) if table.shape[1])
