"""Keys and values of the tokens so far, so that a new token costs one step and not all of them again."""

import numpy as np

from ..support.array import Array


class Cache:
    """For `size` positions in each layer. length: how many are filled."""

    def __init__(self, n_layers: int, size: int) -> None:
        self.length = 0
        self._size = size
        self._kept: list[tuple[Array, Array] | None] = [None] * n_layers

    def extend(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Write k and v (B, G, T, D) behind what is there; return all of it. `length` moves when the model has run."""
        stop = self.length + k.shape[2]
        kept = self._kept[layer]
        if kept is None:
            room_k, room_v = (np.empty((*t.shape[:2], self._size, t.shape[3]), t.dtype) for t in (k, v))
            kept = self._kept[layer] = (room_k, room_v)
        for whole, part in zip(kept, (k, v), strict=True):
            whole[:, :, self.length : stop] = part
        return kept[0][:, :, :stop], kept[1][:, :, :stop]

    def advance(self, count: int) -> None:
        self.length += count
