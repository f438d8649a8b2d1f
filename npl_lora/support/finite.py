"""Numbers that are not finite: which tensor has the first, where, and how many there are."""

from collections.abc import Mapping

import numpy as np

from .quoting import quote_name


def is_finite(array: np.ndarray) -> bool:
    """Whether all numbers are finite."""
    return bool(np.isfinite(array).all())


def describe_nonfinite(name: str, array: np.ndarray, stored: np.ndarray, others: int = 0) -> str:
    """ "x is not finite at [0, 3]: nan (1 of 48 numbers); so are 2 more tensors", for an array that is not finite.

    stored: the array before it was cast to this dtype. A number that is finite there is "too large for float32".
    """
    finite = np.isfinite(array)
    where = tuple(int(i) for i in np.unravel_index(int(np.argmin(finite)), array.shape))
    value = float(stored[where])
    problem = f"too large for {array.dtype}" if np.isfinite(value) else "not finite"
    count = array.size - int(np.count_nonzero(finite))
    more = {0: "", 1: "; so is 1 more tensor"}.get(others, f"; so are {others:,} more tensors")
    return f"{name} is {problem} at {list(where)}: {value:g} ({count:,} of {array.size:,} numbers){more}"


def describe_first_nonfinite(arrays: Mapping[str, np.ndarray], stored: Mapping[str, np.ndarray]) -> str:
    """The sentence on the first array that is not finite; "" if all are finite. stored: the same before a cast."""
    bad = [name for name, array in arrays.items() if not is_finite(array)]
    return describe_nonfinite(quote_name(bad[0]), arrays[bad[0]], stored[bad[0]], len(bad) - 1) if bad else ""
