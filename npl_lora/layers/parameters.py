"""What LoRALinear and LoRAAttention have in common: the scale, frozen arrays, the dtype, and counting."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..ops._checks import check_number


def lora_scale(rank: int, alpha: float, use_rslora: bool) -> float:
    """s = alpha / r, or alpha / sqrt(r) with rsLoRA.

    alpha: any finite real number. With alpha / r the path learns less as r grows; alpha / sqrt(r) does not.

    Source: Hu et al. 2021, section 4.1; Kalajdzievski, "A Rank Stabilization Scaling Factor for Fine-Tuning
    with LoRA", 2023, section 3.
    """
    alpha = check_number("alpha", alpha)
    if isinstance(alpha, complex):
        raise TypeError("alpha is a complex, expected a real number")
    return alpha / math.sqrt(rank) if use_rslora else alpha / rank


def floating_dtype(dtype: Any) -> np.dtype:
    """The NumPy dtype; raises TypeError unless it is a real floating one."""
    dtype = np.dtype(dtype)
    if not np.issubdtype(dtype, np.floating):
        raise TypeError(f"dtype is {dtype}, expected a real floating one")
    return dtype


def frozen_copy(name: str, values: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A read-only copy of real numbers in dtype. Raises TypeError and ValueError for what does not fit."""
    values = np.asarray(values)
    if values.dtype.kind not in "fiu":
        raise TypeError(f"{name} has dtype {values.dtype}, expected real numbers")
    if values.shape != shape:
        raise ValueError(f"{name} has shape {values.shape}, expected {shape}")
    return read_only(values.astype(dtype))


def read_only(array: np.ndarray) -> np.ndarray:
    """The same array, which now refuses to be changed: training a frozen weight is an error at once."""
    array.setflags(write=False)
    return array


def count(arrays: Mapping[str, np.ndarray]) -> int:
    """How many numbers the arrays hold."""
    return sum(array.size for array in arrays.values())


def counted(n_trainable: int, n_frozen: int) -> str:
    """trainable 4,096 of 266,240 (1.5%)"""
    total = n_trainable + n_frozen
    return f"trainable {n_trainable:,} of {total:,} ({n_trainable / total:.1%})"
