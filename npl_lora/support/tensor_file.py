"""Reading a safetensors file. Everything in the header is checked before it is used, and arrays are read on demand.

The format has three parts. Eight bytes hold the length of the header. The header is a JSON object
{name: {dtype, shape, data_offsets}}, with strings under `__metadata__`. Then come the arrays' bytes, one array after
another, without gaps.

The arrays are mapped into memory, so a file larger than the memory can be used block by block. The safetensors library
is not used, because it copies a whole tensor where a view would do, and cannot take slices row by row.

Source: https://github.com/huggingface/safetensors#format.
"""

import json
import math
import os
import stat
import struct
from pathlib import Path
from typing import Any

import numpy as np

from .extras import require

_HEADER_LIMIT = 100_000_000  # bytes, as in the safetensors library
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "<u1",
    "BOOL": "?",
}


class TensorFileError(Exception):
    """The file is not a valid safetensors file. The message is one sentence."""


def open_tensors(path: Path, header_limit: int = _HEADER_LIMIT) -> tuple[dict[str, np.ndarray], Any]:
    """{name: array}, mapped and read-only, and the header's `__metadata__`, unchecked, or None.

    Raises TensorFileError, one sentence, for any file that is not valid safetensors.
    """
    header, start = _header(path, header_limit)
    metadata = header.pop("__metadata__", None)
    try:
        _check_layout(header, os.stat(path).st_size - start)
        return {name: _map(path, start, name, entry) for name, entry in header.items()}, metadata
    except OSError as error:
        raise TensorFileError(f"cannot be read: {error.strerror}") from None


def json_object(text: str | bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object in UTF-8. A name that stands twice is refused: readers differ in which one they take."""

    def refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise TensorFileError(f"{what} has a name twice")
        return dict(pairs)

    try:
        parsed = json.loads(text.decode("utf-8") if isinstance(text, bytes) else text, object_pairs_hook=refuse_repeats)
    except (ValueError, RecursionError):  # neither JSON nor UTF-8, numbers of a million digits, a million brackets
        raise TensorFileError(f"{what} is not JSON in UTF-8") from None
    if not isinstance(parsed, dict):
        raise TensorFileError(f"{what} is {type(parsed).__name__} in JSON, expected an object")
    return parsed


def _header(path: Path, limit: int) -> tuple[dict[str, Any], int]:
    """The JSON object at the start of the file, and the position where it ends."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for a writer
            raise TensorFileError("is not a regular file")
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= limit:
                raise TensorFileError(
                    f"is no safetensors file: its header has {length:,} bytes, expected 2 to {limit:,}"
                )
            raw = file.read(length)
    except OSError as error:
        raise TensorFileError(f"cannot be read: {error.strerror}") from None
    if len(raw) < length:
        raise TensorFileError(f"is truncated: its header has {len(raw):,} bytes of {length:,}")
    return json_object(raw, "the header"), 8 + length


def _check_layout(header: dict[str, Any], size: int) -> None:
    """Check that every array fills its bytes, and that the arrays fill the file, in any order, without overlap."""
    spans = sorted(_span(name, entry) for name, entry in header.items())
    end = 0
    for begin, stop, name in spans:
        if begin != end:
            raise TensorFileError(f"{name!r} begins at byte {begin:,}, expected {end:,}")
        end = stop
    if end != size:
        raise TensorFileError(f"has {size:,} bytes of arrays, its header declares {end:,}")


def _span(name: str, entry: Any) -> tuple[int, int, str]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise TensorFileError(f"{name[:40]!r} has no dtype, shape and data_offsets in the header")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not (_naturals(shape) and _naturals(offsets) and len(offsets) == 2 and len(shape) <= 16):
        raise TensorFileError(f"{name[:40]!r} has a shape or data_offsets that are not lists of natural numbers")
    declared = math.prod(shape) * _dtype(name, entry["dtype"]).itemsize
    if offsets[1] - offsets[0] != declared:
        raise TensorFileError(f"{name[:40]!r} has {offsets[1] - offsets[0]:,} bytes, its shape declares {declared:,}")
    return offsets[0], offsets[1], name[:40]


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 48 for v in values)


def _dtype(name: str, dtype: Any) -> np.dtype:
    if dtype == "BF16":
        return np.dtype(require("ml_dtypes", "files", "a bfloat16 file").bfloat16)
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        expected = f"expected one of BF16, {', '.join(_DTYPES)}"
        raise TensorFileError(f"{name[:40]!r} has dtype {str(dtype)[:40]!r}, {expected}")
    return np.dtype(_DTYPES[dtype])


def _map(path: Path, start: int, name: str, entry: dict[str, Any]) -> np.ndarray:
    dtype, shape = _dtype(name, entry["dtype"]), tuple(entry["shape"])
    if 0 in shape or not shape:  # nothing to map, or too little
        raw = np.fromfile(path, np.uint8, math.prod(shape) * dtype.itemsize, offset=start + entry["data_offsets"][0])
        return raw.view(dtype).reshape(shape)
    return np.memmap(path, dtype, "r", start + entry["data_offsets"][0], shape)
