"""The wire format between the check and a worker: frames of a JSON header and raw arrays, each sent with its length.

Nothing in a frame is ever executed (no pickle). No more than a fixed limit is allocated, whatever a header claims.
"""

import json
import math
import struct
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from ..dtypes import dtype_by_name

_LENGTH = struct.Struct("<Q")
LIMIT = 1 << 30  # bytes; an answer to a case is a few kilobytes

Frame = tuple[dict[str, Any], dict[str, np.ndarray]]


class FrameError(Exception):
    """The data received, or to be sent, is not a valid frame."""


class PipeEndError(FrameError):
    """The other side ended, so nothing arrived."""


def write_frame(pipe: IO[bytes], header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write one frame: the header with the arrays' names, dtypes and shapes, then the arrays' bytes."""
    _check_size(sum(array.nbytes for array in arrays.values()))
    described = [(name, array.dtype.name, array.shape) for name, array in arrays.items()]
    head = json.dumps({**header, "arrays": described}).encode()
    pipe.write(_LENGTH.pack(len(head)) + head + b"".join(array.tobytes() for array in arrays.values()))
    pipe.flush()


def read_frame(pipe: IO[bytes]) -> Frame:
    """Read one frame. Raises PipeEndError at the end of the pipe, and FrameError for data that is not a frame."""
    (length,) = _LENGTH.unpack(_read_exactly(pipe, _LENGTH.size))
    try:
        header = json.loads(_read_exactly(pipe, length))
        described = [(name, dtype_by_name(dtype), _shape(shape)) for name, dtype, shape in header.pop("arrays")]
        sizes = [dtype.itemsize * math.prod(shape) for _, dtype, shape in described]
        _check_size(sum(sizes))
        arrays = {
            name: np.frombuffer(_read_exactly(pipe, size), dtype).reshape(shape)
            for (name, dtype, shape), size in zip(described, sizes, strict=True)
        }
    except (ValueError, TypeError, KeyError, AttributeError, ImportError, RecursionError) as error:
        raise FrameError(f"not a valid frame ({error})") from None
    return header, arrays


def _shape(shape: Any) -> tuple[int, ...]:
    """A list of natural numbers. The product of anything else, such as a string, could have any size."""
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n <= LIMIT for n in shape):
        raise FrameError("not a valid frame (a shape that is not a list of natural numbers)")
    return tuple(shape)


def _read_exactly(pipe: IO[bytes], count: int) -> bytes:
    _check_size(count)
    data = pipe.read(count)
    if len(data) != count:
        raise PipeEndError("the pipe ended")
    return data


def _check_size(count: int) -> None:
    if not 0 <= count <= LIMIT:
        raise FrameError(f"{count:,} bytes, expected at most {LIMIT:,}")
