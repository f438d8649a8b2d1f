"""Reads the header of a GGUF file. Everything in it is checked before it is used. No tensor is read.

The format, with little-endian numbers:

    "GGUF", a version, the number of tensors, the number of fields
    for each field, its name, its type and its value; for an array, the type and count of its values, then the values
    for each tensor, its name, the lengths of its axes (fastest first), its type, and its offset
    padding to a multiple of the alignment; the tensors' offsets count from here

The gguf package is not used here. It creates several objects for each number of an array, and it keeps going past the
end of the file, so a false count could fill the memory.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import math
import mmap
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..support.quoting import quote_name

_VERSIONS = (2, 3)
_LIMIT = 100_000_000  # bytes in the header; a vocabulary of 256,000 tokens has 10 million
_NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
_STRING, _ARRAY = 8, 9
_AXES = 4


class GGUFError(ValueError):
    """The file is not a valid GGUF file. The message is one sentence, without the file's name."""


@dataclass(frozen=True)
class Entry:
    """A tensor: the lengths of its axes, slowest first; the number of its type; its first byte in the file."""

    shape: tuple[int, ...]
    type: int
    begin: int


@dataclass(frozen=True)
class Head:
    """fields: numbers, bytes for strings, arrays of numbers, or lists of bytes. entries: the tensors by name."""

    fields: dict[str, Any]
    entries: dict[str, Entry]


def open_file(path: Path) -> np.ndarray:
    """All bytes of a file, memory-mapped and read-only. Raises GGUFError."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a FIFO would wait for a writer
            raise GGUFError("is not a regular file")
        with path.open("rb") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except (OSError, ValueError) as error:  # ValueError: an empty file, or a zero byte in its name
        if isinstance(error, GGUFError):
            raise
        raise GGUFError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def read_head(data: np.ndarray) -> Head:
    """The header of a GGUF file. Raises GGUFError."""
    cursor = _Cursor(data)
    if cursor.take(4) != b"GGUF":
        raise GGUFError("is not a GGUF file: it does not start with 'GGUF'")
    version = cursor.u32()
    if version not in _VERSIONS:
        raise GGUFError(f"has GGUF version {version}, expected one of {_VERSIONS}")
    tensors, count = cursor.u64(), cursor.u64()
    fields = _by_name(count, lambda: (cursor.name("a field"), cursor.value()))
    entries = _by_name(tensors, lambda: (cursor.name("a tensor"), _entry(cursor)))
    start = _align(cursor.at, fields.get("general.alignment", 32))
    return Head(fields, {name: Entry(e.shape, e.type, start + e.begin) for name, e in entries.items()})


class _Cursor:
    """A position in the bytes. Every read moves it forward, so a false count soon reaches the end of the file."""

    def __init__(self, data: np.ndarray) -> None:
        self.data, self.bytes, self.at = data, data.data, 0

    def skip(self, count: int) -> int:
        """Move forward by count bytes. Returns the position before."""
        begin, self.at = self.at, self.at + count
        if self.at > self.data.size:
            raise GGUFError(f"is truncated: its header goes beyond its {self.data.size:,} bytes")
        if self.at > _LIMIT:
            raise GGUFError(f"has a header of more than {_LIMIT:,} bytes")
        return begin

    def take(self, count: int) -> bytes:
        begin = self.skip(count)
        return self.bytes[begin : self.at].tobytes()

    def u32(self) -> int:
        return int(struct.unpack_from("<I", self.bytes, self.skip(4))[0])

    def u64(self) -> int:
        return int(struct.unpack_from("<Q", self.bytes, self.skip(8))[0])

    def text(self) -> bytes:
        return self.take(self.u64())

    def name(self, owner: str) -> str:
        try:
            return self.text().decode("utf-8")
        except UnicodeDecodeError:
            raise GGUFError(f"has {owner} whose name is not UTF-8") from None

    def numbers(self, type_: int, count: int) -> np.ndarray:
        if type_ not in _NUMBERS:
            raise GGUFError(f"has a value of type {type_}, which is not supported")
        begin = self.skip(np.dtype(_NUMBERS[type_]).itemsize * count)
        return self.data[begin : self.at].view(_NUMBERS[type_])

    def value(self) -> Any:
        type_ = self.u32()
        if type_ == _STRING:
            return self.text()
        if type_ != _ARRAY:
            return self.numbers(type_, 1)[0].item()
        type_, count = self.u32(), self.u64()
        return [self.text() for _ in range(count)] if type_ == _STRING else self.numbers(type_, count)


def _by_name(count: int, read: Callable[[], tuple[str, Any]]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for _ in range(count):
        name, value = read()
        if name in entries:
            raise GGUFError(f"has {quote_name(name)} twice")
        entries[name] = value
    return entries


def _entry(cursor: _Cursor) -> Entry:
    axes = cursor.u32()
    if axes > _AXES:
        raise GGUFError(f"has a tensor with {axes} axes, expected at most {_AXES}")
    shape = tuple(cursor.u64() for _ in range(axes))[::-1]
    return Entry(shape, cursor.u32(), cursor.u64())


def _align(at: int, alignment: Any) -> int:
    if type(alignment) is not int or not 0 < alignment <= 1 << 20:
        raise GGUFError("has an alignment that is not a number from 1 to 1,048,576")
    return math.ceil(at / alignment) * alignment
