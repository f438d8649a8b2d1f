"""What a subject may answer, turned into NumPy arrays. Nothing is imported for it: an array is known by what it can do."""

from collections.abc import Mapping
from typing import Any

import numpy as np


class AnswerError(Exception):
    """The answer is nothing that can be judged. One line."""


def to_arrays(answer: Any) -> dict[str, np.ndarray]:
    """A mapping from name to array -> the same of NumPy arrays. Judging them is left to the judge."""
    if not isinstance(answer, Mapping):
        raise AnswerError(f"returned a {type(answer).__name__}, expected a mapping from name to array")
    arrays = {}
    for name, value in answer.items():
        if not isinstance(name, str):
            raise AnswerError(f"returned a mapping with the key {name!r}, expected names")
        arrays[name] = to_numpy(name, value)
    return arrays


def to_numpy(name: str, value: Any) -> np.ndarray:
    """One answer: NumPy, torch (any device, with or without grad), CuPy, JAX, MLX, a buffer, DLPack or a scalar."""
    if hasattr(value, "detach") and hasattr(value, "cpu"):  # torch
        value = value.detach().cpu().resolve_conj().resolve_neg()
        if str(value.dtype) in _TORCH_NARROW:
            value = value.float()
        array = value.numpy()
    elif hasattr(value, "get") and hasattr(value, "__cuda_array_interface__"):  # CuPy
        array = value.get()
    else:
        array = _other(name, value)
    return _native(name, array)


# Dtypes that NumPy has no name for. float32 holds each of their values.
_TORCH_NARROW = {f"torch.{name}" for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")}
_NARROW = {"bfloat16", "float8_e4m3fn", "float8_e5m2"}


def _other(name: str, value: Any) -> np.ndarray:
    dtype = str(getattr(value, "dtype", ""))
    if dtype.startswith("mlx.") and dtype.split(".")[-1] == "bfloat16":
        value = value.astype(type(value)(0.0).dtype)  # an MLX scalar is float32, and its buffer NumPy's
    try:
        if hasattr(value, "__array__") or isinstance(value, (int, float, complex, np.generic)):
            return np.asarray(value)
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
        return np.asarray(memoryview(value))
    except (TypeError, ValueError, BufferError, RuntimeError) as error:
        kind = type(value).__name__
        raise AnswerError(f"{name} is a {kind}, expected an array ({_first_line(str(error))})") from None


def _native(name: str, array: Any) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.name in _NARROW:
        return array.astype(np.float32)
    if array.dtype.kind not in "fciub":
        raise AnswerError(f"{name} has dtype {array.dtype}, expected a floating dtype")
    return array


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0][:300] if lines else "no message"


def describe(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {_first_line(str(error))}"
