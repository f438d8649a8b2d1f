"""A checkpoint's tensors by name, in the dtype of the computation.

A tensor stored in that dtype is mapped from the file and never copied. A tensor stored in fewer bits, for example
bfloat16 or 4 bits, stays so in memory and is widened each time it is read. So at most one block is widened at a time.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Stored:
    """One tensor: its shape, how to read it, and whether reading it costs work and memory."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    is_coded: bool


class Weights(Mapping[str, np.ndarray]):
    """{name: array in dtype}."""

    def __init__(self, stored: Mapping[str, Stored], dtype: Any = np.float32) -> None:
        self.dtype = np.dtype(dtype)
        self._stored = dict(stored)

    def __getitem__(self, name: str) -> np.ndarray:
        return np.asarray(self._stored[name].read()).astype(self.dtype, copy=False)

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
        """The same tensors, converted once and kept in memory."""
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


def as_stored(array: np.ndarray, dtype: Any) -> Stored:
    """Describe an array that is mapped from a file or in memory."""
    return Stored(array.shape, lambda: array, array.dtype != np.dtype(dtype))
