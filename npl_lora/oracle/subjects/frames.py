"""The wire between the check and a worker: frames of a JSON header and arrays, each with its length in front. No pickle."""

import io
import json
import struct
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

_LENGTH = struct.Struct("<Q")
LIMIT = 1 << 30  # bytes; an answer to a case is a few kilobytes


class FrameError(Exception):
    """The other side ended, or sent what is no frame."""


def write_frame(pipe: IO[bytes], header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """One frame: the header, with the arrays' names, and the arrays as .npy."""
    body = io.BytesIO()
    for array in arrays.values():
        np.lib.format.write_array(body, array, allow_pickle=False)
    head = json.dumps({**header, "arrays": list(arrays)}).encode()
    payload = body.getvalue()
    pipe.write(_LENGTH.pack(len(head)) + head + _LENGTH.pack(len(payload)) + payload)
    pipe.flush()


def read_frame(pipe: IO[bytes]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """One frame. Raises FrameError at the end of the pipe, and for what is no frame."""
    header = json.loads(_read(pipe))
    body = io.BytesIO(_read(pipe))
    return header, {name: np.lib.format.read_array(body, allow_pickle=False) for name in header.pop("arrays")}


def _read(pipe: IO[bytes]) -> bytes:
    (length,) = _LENGTH.unpack(_exactly(pipe, _LENGTH.size))
    if length > LIMIT:
        raise FrameError(f"{length:,} bytes, expected at most {LIMIT:,}")
    return _exactly(pipe, length)


def _exactly(pipe: IO[bytes], count: int) -> bytes:
    data = pipe.read(count)
    if len(data) != count:
        raise FrameError("the pipe ended")
    return data
