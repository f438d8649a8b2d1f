"""A checkpoint's tensors by name, in the dtype of the computation.

A tensor stored in that dtype is mapped from the file and never copied. A tensor stored in fewer bits, for example
bfloat16 or 4 bits, stays so in memory and is widened each time it is read. So at most one block is widened at a time.

A tensor from a file is checked when it is first read: one that holds NaN or an infinity is refused. That is one pass
over numbers that were just decoded.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..support.finite import describe_nonfinite, is_finite
from ..support.quoting import quote_name
from ._config import ModelError


@dataclass(frozen=True)
class Stored:
    """One tensor: its shape, how to read it, and whether reading it costs work and memory. file: where it comes from;
    its numbers must be finite. None: they may be anything. name: how the file calls it."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    is_coded: bool
    file: Path | None = None
    name: str = ""


class Weights(Mapping[str, np.ndarray]):
    """{name: array in dtype}. Reading a tensor raises ModelError if it comes from a file and is not finite."""

    def __init__(self, stored: Mapping[str, Stored], dtype: Any = np.float32) -> None:
        self.dtype = np.dtype(dtype)
        self._stored = dict(stored)
        self._unchecked = {name for name, one in self._stored.items() if one.file is not None}

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._read(name)
        if name in self._unchecked:
            if not is_finite(array):
                raise ModelError(self._describe(name, array))
            self._unchecked.remove(name)
        return array

    def _read(self, name: str) -> np.ndarray:
        with np.errstate(over="ignore"):  # what is too large for the dtype becomes infinite, and is refused
            return np.asarray(self._stored[name].read()).astype(self.dtype, copy=False)

    def _describe(self, name: str, array: np.ndarray) -> str:
        one = self._stored[name]
        called = name if one.name == name else f"{name} ({quote_name(one.name)} in the file)"
        others = sum(not is_finite(self._read(other)) for other in self._unchecked - {name})
        return f"{one.file}: {describe_nonfinite(called, array, np.asarray(one.read()), others)}"

    def check(self) -> None:
        """Read what was not read yet, once. Raises ModelError for the first tensor that is not finite."""
        for name in [name for name in self if name in self._unchecked]:
            self[name]

    def __contains__(self, name: object) -> bool:
        return name in self._stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, without reading the tensor."""
        return self._stored[name].shape

    def rename(self, new: Callable[[str], str]) -> "Weights":
        """The same tensors under other names."""
        return Weights({new(name): stored for name, stored in self._stored.items()}, self.dtype)

    def select(self, names: Collection[str]) -> "Weights":
        """The tensors with these names."""
        return Weights({name: stored for name, stored in self._stored.items() if name in names}, self.dtype)

    def with_arrays(self, arrays: Mapping[str, np.ndarray]) -> "Weights":
        """These tensors and these arrays."""
        more = {name: as_stored(array.astype(self.dtype), self.dtype) for name, array in arrays.items()}
        return Weights({**self._stored, **more}, self.dtype)

    @property
    def is_coded(self) -> bool:
        """Whether some tensor must be converted before it can be computed with."""
        return any(stored.is_coded for stored in self._stored.values())

    def decode(self) -> "Weights":
        """The same tensors, converted once and kept in memory. Raises ModelError for one that is not finite."""
        return weights_of({name: self[name] for name in self}, self.dtype)


class ReadOnce(Mapping[str, np.ndarray]):
    """{name: array}, where each array is read from the base once and then kept."""

    def __init__(self, base: Mapping[str, np.ndarray]) -> None:
        self._base = base
        self._read: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._read:
            self._read[name] = self._base[name]
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._base

    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)


def weights_of(arrays: Mapping[str, np.ndarray], dtype: Any = np.float32) -> Weights:
    """Weights that hold these arrays."""
    kept = {name: np.asarray(array).astype(dtype, copy=False) for name, array in arrays.items()}
    return Weights({name: as_stored(array, dtype) for name, array in kept.items()}, dtype)


def as_stored(array: np.ndarray, dtype: Any, file: Path | None = None, name: str = "") -> Stored:
    """Describe an array that is mapped from a file or in memory."""
    return Stored(array.shape, lambda: array, array.dtype != np.dtype(dtype), file, name)
