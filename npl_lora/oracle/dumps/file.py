"""Opening a dump: a safetensors file of which nothing is believed before it is checked, and nothing read before it is
needed.

The format: eight bytes, the length of the header; the header, a JSON object {name: {dtype, shape, data_offsets}} with
strings under `__metadata__`; the arrays' bytes, one after another, without gaps. The arrays are mapped into memory, so
a file larger than the memory can be judged block by block. The header is read here and not by the safetensors library,
whose slices of a (batch, positions, features) array cannot be taken row by row.

Source: https://github.com/huggingface/safetensors#format.
"""

import json
import math
import os
import stat
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..._extras import require
from ..contracts import CONTRACTS
from ..rounding import PRECISIONS
from ..subjects import one_line

_HEADER_LIMIT = 1 << 20  # bytes; a dump has some ten arrays
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "BOOL": "?"}
_KEYS = ("protocol", "contract", "id", "dtype", "config")


class DumpError(Exception):
    """The file is no dump that could be judged. One sentence."""


@dataclass(frozen=True)
class Dump:
    """What a dump says of itself, and its arrays, mapped."""

    contract: str
    id: str
    dtype: str
    config: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(repr=False)
    note: str = ""


def open_dump(path: Path) -> Dump:
    """The dump in a file. Raises DumpError, one sentence, for whatever else the file is."""
    header, start = _header(path)
    metadata = _metadata(header.pop("__metadata__", None))
    _check_layout(header, os.stat(path).st_size - start)
    try:
        arrays = {name: _map(path, start, name, entry) for name, entry in header.items()}
    except OSError as error:
        raise DumpError(f"cannot be read: {error.strerror}") from None
    return Dump(arrays=arrays, **metadata)


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The JSON object at the head of the file, and where it ends."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a FIFO would wait for a writer
            raise DumpError("is not a regular file")
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= _HEADER_LIMIT:
                raise DumpError(f"is no dump: its header has {length:,} bytes, expected 2 to {_HEADER_LIMIT:,}")
            raw = file.read(length)
    except OSError as error:
        raise DumpError(f"cannot be read: {error.strerror}") from None
    if len(raw) < length:
        raise DumpError(f"is truncated: its header has {len(raw):,} bytes of {length:,}")
    header = _json(raw, "the header")
    return header, 8 + length


def _json(text: str | bytes, what: str) -> dict[str, Any]:
    """A JSON object in UTF-8. Names that stand twice are refused: readers differ in which of the two they take."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise DumpError(f"{what} has a name twice")
        return dict(pairs)

    try:
        found = json.loads(text.decode("utf-8") if isinstance(text, bytes) else text, object_pairs_hook=once)
    except (ValueError, RecursionError):  # neither JSON nor UTF-8, numbers of a million digits, a million brackets
        raise DumpError(f"{what} is not JSON in UTF-8") from None
    if not isinstance(found, dict):
        raise DumpError(f"{what} is {type(found).__name__} in JSON, expected an object")
    return found


def _metadata(metadata: Any) -> dict[str, Any]:
    """contract, id, dtype and config, each of them checked; and a note, where whoever wrote the dump left one."""
    if not isinstance(metadata, dict) or not all(isinstance(metadata.get(key), str) for key in _KEYS):
        raise DumpError(f"has no __metadata__ with the strings {', '.join(_KEYS)}")
    if metadata["protocol"] != "1":
        raise DumpError(f"is of protocol {metadata['protocol'][:20]!r}, expected '1'")
    for key, known in (("contract", CONTRACTS), ("dtype", PRECISIONS)):
        if metadata[key] not in known:
            raise DumpError(f"{key} is {metadata[key][:40]!r}, expected one of {', '.join(known)}")
    config = _json(metadata["config"], "config")
    note = one_line.first_line(str(metadata.get("note", "")))
    return {"config": config, "note": note, **{key: metadata[key] for key in ("contract", "id", "dtype")}}


def _check_layout(header: dict[str, Any], size: int) -> None:
    """Every entry is an array that fills its bytes, and the arrays fill the file, in some order, without overlap."""
    spans = sorted(_span(name, entry) for name, entry in header.items())
    end = 0
    for begin, stop, name in spans:
        if begin != end:
            raise DumpError(f"{name} begins at byte {begin:,}, expected {end:,}")
        end = stop
    if end != size:
        raise DumpError(f"has {size:,} bytes of arrays, its header declares {end:,}")


def _span(name: str, entry: Any) -> tuple[int, int, str]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise DumpError(f"{name[:40]!r} has no dtype, shape and data_offsets in the header")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not (_naturals(shape) and _naturals(offsets) and len(offsets) == 2 and len(shape) <= 16):
        raise DumpError(f"{name[:40]!r} has a shape or data_offsets that are not lists of natural numbers")
    declared = math.prod(shape) * _dtype(name, entry["dtype"]).itemsize
    if offsets[1] - offsets[0] != declared:
        raise DumpError(f"{name[:40]!r} has {offsets[1] - offsets[0]:,} bytes, its shape declares {declared:,}")
    return offsets[0], offsets[1], name[:40]


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 48 for v in values)


def _dtype(name: str, dtype: Any) -> np.dtype:
    if dtype == "BF16":
        return np.dtype(require("ml_dtypes", "files", "a bfloat16 dump").bfloat16)
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise DumpError(f"{name[:40]!r} has dtype {str(dtype)[:40]!r}, expected one of BF16, {', '.join(_DTYPES)}")
    return np.dtype(_DTYPES[dtype])


def _map(path: Path, start: int, name: str, entry: dict[str, Any]) -> np.ndarray:
    dtype, shape = _dtype(name, entry["dtype"]), tuple(entry["shape"])
    if 0 in shape or not shape:  # there is nothing to map, or too little to be worth it
        raw = np.fromfile(path, np.uint8, math.prod(shape) * dtype.itemsize, offset=start + entry["data_offsets"][0])
        return raw.view(dtype).reshape(shape)
    return np.memmap(path, dtype, "r", start + entry["data_offsets"][0], shape)
