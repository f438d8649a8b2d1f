"""Converts a subject's answer to NumPy arrays. No library is imported: arrays are recognised by their methods."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ..dtypes import is_narrow
from ..one_line import describe


class AnswerError(Exception):
    """The answer cannot be judged. The message is one line."""


def to_arrays(answer: Any) -> dict[str, np.ndarray]:
    """Convert a mapping from name to array to NumPy arrays. Their shapes and numbers are not checked here."""
    if not isinstance(answer, Mapping):
        raise AnswerError(f"returned {_with_article(answer)}, expected a mapping from name to array")
    arrays = {}
    for name, value in answer.items():
        if not isinstance(name, str):
            raise AnswerError(f"returned a mapping with the key {name!r}, expected names as keys")
        arrays[str(name)] = to_numpy(name, value)
    return arrays


def to_numpy(name: str, value: Any) -> np.ndarray:
    """Convert an output: NumPy, torch (any device, with or without grad), CuPy, JAX, MLX, a buffer, DLPack or a scalar.

    Returns a copy, because a subject may reuse its own array in the next call.
    """
    problems = []
    for converter in _converters(value):
        try:
            array = converter(value)
        except Exception as error:  # a stranger's array type may fail in any way
            if converter is not _buffer or not isinstance(error, TypeError):  # memoryview's "no buffer" tells nothing
                problems.append(describe(error))
        else:
            return _native_copy(name, array)
    raise AnswerError(
        f"{name} is {_with_article(value)}, expected an array" + (f" ({problems[0]})" if problems else "")
    )


def _converters(value: Any) -> Iterator[Callable[[Any], np.ndarray]]:
    """The functions that may convert this value to a NumPy array, best first."""
    if isinstance(value, (str, bytes)):
        return  # bytes are a buffer, but do not hold numbers
    if hasattr(value, "detach") and hasattr(value, "resolve_conj"):
        yield _torch
        return
    if hasattr(value, "__cuda_array_interface__") and hasattr(value, "get"):
        yield _cupy
    if hasattr(value, "__array__") or isinstance(value, (int, float, complex)):
        yield np.asarray
    if str(getattr(value, "dtype", "")).endswith("mlx.core.bfloat16"):
        yield _mlx_bfloat16
    if not hasattr(value, "__array__"):
        yield _buffer
    if hasattr(value, "__dlpack__"):
        yield np.from_dlpack
        yield _dlpack_from_device


def _torch(value: Any) -> np.ndarray:
    value = value.detach().cpu().resolve_conj().resolve_neg()
    if value.is_floating_point() and str(value.dtype) not in _TORCH_FLOATS:
        value = value.float()  # NumPy lacks bfloat16 and the eight-bit formats; float32 holds all their values
    return value.numpy()


_TORCH_FLOATS = ("torch.float16", "torch.float32", "torch.float64")


def _cupy(value: Any) -> np.ndarray:
    return value.get()


def _mlx_bfloat16(value: Any) -> np.ndarray:
    float32 = type(value)(0.0).dtype  # MLX converts a Python float to float32
    return np.asarray(memoryview(value.astype(float32)))


def _buffer(value: Any) -> np.ndarray:
    return np.asarray(memoryview(value))


def _dlpack_from_device(value: Any) -> np.ndarray:
    return np.from_dlpack(value, device="cpu")  # from another device; needs NumPy 2.1, and an array that supports it


def _native_copy(name: str, array: Any) -> np.ndarray:
    """A copy in one of NumPy's own dtypes and this machine's byte order."""
    array = np.asarray(array)
    if is_narrow(array.dtype):
        return array.astype(np.float32)
    if array.dtype.isbuiltin == 2 or array.dtype.kind not in "fciub":
        raise AnswerError(f"{name} has dtype {array.dtype}, expected a floating dtype")
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C", copy=True, subok=False)


def _with_article(value: Any) -> str:
    """The type of a value with its article: a list, an int, None."""
    if value is None:
        return "None"
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"
