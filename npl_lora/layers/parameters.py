"""What LoRALinear and LoRAAttention share: frozen arrays, and counts of parameters."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def frozen_copy(name: str, values: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A read-only copy of the values in dtype. Raises TypeError unless they are real, ValueError for another shape."""
    values = np.asarray(values)
    if values.dtype.kind not in "fiu":
        raise TypeError(f"{name} has dtype {values.dtype}, expected real numbers")
    if values.shape != shape:
        raise ValueError(f"{name} has shape {values.shape}, expected {shape}")
    return read_only(values.astype(dtype))


def read_only(array: np.ndarray) -> np.ndarray:
    """The same array, made read-only: an optimiser that changes a frozen weight fails at once."""
    array.setflags(write=False)
    return array


def count(arrays: Mapping[str, np.ndarray]) -> int:
    """How many numbers the arrays hold."""
    return sum(array.size for array in arrays.values())


def format_counts(n_trainable: int, n_frozen: int) -> str:
    """For a repr: trainable 4,096 of 266,240 (1.5%)."""
    total = n_trainable + n_frozen
    return f"trainable {n_trainable:,} of {total:,} ({n_trainable / total:.1%})"
