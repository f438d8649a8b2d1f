"""The wire between the check and a worker: frames of a JSON header and raw arrays, their lengths known beforehand.

Nothing in a frame is ever executed (no pickle), and nothing is allocated beyond a limit, whatever a header claims.
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
    """What came, or is to be sent, is no frame."""


class PipeEndError(FrameError):
    """Nothing came, for the other side ended."""


def write_frame(pipe: IO[bytes], header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """One frame: the header, with the arrays' names, dtypes and shapes, then the arrays' bytes."""
    _check_size(sum(array.nbytes for array in arrays.values()))
    described = [(name, array.dtype.name, array.shape) for name, array in arrays.items()]
    head = json.dumps({**header, "arrays": described}).encode()
    pipe.write(_LENGTH.pack(len(head)) + head + b"".join(array.tobytes() for array in arrays.values()))
    pipe.flush()


def read_frame(pipe: IO[bytes]) -> Frame:
    """One frame. Raises PipeEndError at the end of the pipe, and FrameError for what is no frame."""
    (length,) = _LENGTH.unpack(_exactly(pipe, _LENGTH.size))
    try:
        header = json.loads(_exactly(pipe, length))
        described = [(name, dtype_by_name(dtype), _shape(shape)) for name, dtype, shape in header.pop("arrays")]
        sizes = [dtype.itemsize * math.prod(shape) for _, dtype, shape in described]
        _check_size(sum(sizes))
        arrays = {
            name: np.frombuffer(_exactly(pipe, size), dtype).reshape(shape)
            for (name, dtype, shape), size in zip(described, sizes, strict=True)
        }
    except (ValueError, TypeError, KeyError, AttributeError, ImportError, RecursionError) as error:
        raise FrameError(f"what came is no frame ({error})") from None
    return header, arrays


def _shape(shape: Any) -> tuple[int, ...]:
    """Natural numbers. Of anything else, such as a text, the product may have any size."""
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n <= LIMIT for n in shape):
        raise FrameError("what came is no frame (a shape that is not a list of natural numbers)")
    return tuple(shape)


def _exactly(pipe: IO[bytes], count: int) -> bytes:
    _check_size(count)
    data = pipe.read(count)
    if len(data) != count:
        raise PipeEndError("the pipe ended")
    return data


def _check_size(count: int) -> None:
    if not 0 <= count <= LIMIT:
        raise FrameError(f"{count:,} bytes, expected at most {LIMIT:,}")
