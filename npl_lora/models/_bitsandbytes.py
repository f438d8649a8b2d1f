"""Weights in 4 bits as bitsandbytes stores them, decoded as it decodes them.

    W = code[q] absmax[block]         in float32, then rounded to the dtype that the weight had

q are 16 levels, two in a byte, the first in the high bits. A block is `blocksize` numbers of W that follow each other,
and absmax its largest. With double quantisation absmax is stored in 8 bits, in blocks of its own:

    absmax = code_8[q_8] absmax_8[block] + offset

A weight `x` has its levels under its own name, and beside it x.absmax, x.quant_map (code) and x.quant_state.*, a JSON
object in bytes; with double quantisation also x.nested_absmax and x.nested_quant_map. The levels are those of the file:
nf4 and fp4 are decoded alike.

Source: Dettmers et al., "QLoRA", 2023, section 3; bitsandbytes 0.50.2, QuantState in functional.py.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..support.extras import require
from ..support.quoting import quote_name, quote_value
from ..support.tensor_file import TensorFileError, json_object
from ._config import ModelError
from ._weights import Stored

_STATE = ".quant_state.bitsandbytes__"
_PARTS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")
_DTYPES = ("float32", "float16", "bfloat16")


def decoded(raw: Mapping[str, np.ndarray], file: Path | None) -> Iterator[tuple[str, Stored, list[str]]]:
    """Each weight in 4 bits: its name, how to read it, and the names of all arrays that it is made of. raw: the arrays
    of a checkpoint. file: where they come from, if the numbers must be finite. Raises ModelError."""
    for key in [key for key in raw if _STATE in key]:
        name = key.partition(_STATE)[0]
        parts = {part: raw[name + part] for part in ("", *_PARTS) if name + part in raw}
        try:
            state = json_object(raw[key].tobytes(), "its quant_state")
            stored = _Packed(name, parts, state).stored(file)
        except TensorFileError as error:
            raise ModelError(f"{quote_name(name)} in 4 bits: {error}") from None
        yield name, stored, [key, *(name + part for part in parts)]


class _Packed:
    """One weight. Raises ModelError where its arrays contradict each other."""

    def __init__(self, name: str, parts: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
        self._name, self._parts = name, parts
        self._shape, self._dtype = self._read_shape(state.get("shape")), state.get("dtype")
        count = math.prod(self._shape)
        if self._dtype not in _DTYPES:
            self._refuse("dtype", self._dtype, f"one of {', '.join(_DTYPES)}")
        self._block = self._read_size(state, "blocksize")
        blocks = -(-count // self._block)
        self._check("", "u", -(-count // 2))
        self._check(".quant_map", "f", 16)
        self._nested = ".nested_absmax" in parts
        self._check(".absmax", "u" if self._nested else "f", blocks)
        if self._nested:
            self._nested_block = self._read_size(state, "nested_blocksize")
            self._offset = state.get("nested_offset")
            if type(self._offset) not in (int, float):
                self._refuse("nested_offset", self._offset, "a number")
            self._check(".nested_absmax", "f", -(-blocks // self._nested_block))
            self._check(".nested_quant_map", "f", 256)

    def stored(self, file: Path | None) -> Stored:
        return Stored(self._shape, self._read, True, file, self._name)

    def _read(self) -> np.ndarray:
        """W, in float32 numbers that its own dtype has."""
        packed, code = self._parts[""].reshape(-1), self._parts[".quant_map"].astype(np.float32)
        levels = np.empty((packed.size, 2), np.float32)
        levels[:, 0], levels[:, 1] = code[packed >> 4], code[packed & 15]
        count = math.prod(self._shape)
        with np.errstate(all="ignore"):  # what is not finite is refused where it is read
            numbers = _scaled(levels.reshape(-1)[:count], self._absmax(), self._block)
            return numbers.astype(_dtype(str(self._dtype))).astype(np.float32).reshape(self._shape)

    def _absmax(self) -> np.ndarray:
        absmax = self._parts[".absmax"].reshape(-1)
        if not self._nested:
            return absmax.astype(np.float32)
        code, largest = (self._parts[part].astype(np.float32) for part in (".nested_quant_map", ".nested_absmax"))
        return _scaled(code[absmax], largest, self._nested_block) + np.float32(self._offset)

    def _read_shape(self, found: Any) -> tuple[int, ...]:
        if not isinstance(found, list) or not found or not all(type(n) is int and 0 < n < 1 << 31 for n in found):
            self._refuse("shape", found, "a list of positive integers")
        return tuple(found)

    def _read_size(self, state: Mapping[str, Any], name: str) -> int:
        size = state.get(name)
        if type(size) is not int or not 0 < size < 1 << 31:
            self._refuse(name, size, "a positive integer")
        return size

    def _check(self, part: str, kind: str, count: int) -> None:
        array = self._parts.get(part)
        if array is None or array.size != count or array.dtype.kind != kind or (kind == "u" and array.itemsize != 1):
            what = "nothing" if array is None else f"{array.size:,} numbers of {array.dtype}"
            numbers = "bytes" if kind == "u" else "floating numbers"
            raise ModelError(
                f"{quote_name(self._name)} in 4 bits has {what} in {part or 'it'}, expected {count:,} {numbers}"
            )

    def _refuse(self, name: str, value: Any, expected: str) -> NoReturn:
        raise ModelError(f"{quote_name(self._name)} in 4 bits has {name} = {quote_value(value)}, expected {expected}")


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(require("ml_dtypes", "files", "a bfloat16 file").bfloat16 if name == "bfloat16" else name)


def _scaled(levels: np.ndarray, largest: np.ndarray, block: int) -> np.ndarray:
    """Each block of levels times its largest number."""
    return levels * np.repeat(largest, block)[: levels.size]
