"""The keys and values of earlier tokens, so that the next token does not compute them again."""

import numpy as np

from ..support.array import Array


class Cache:
    """Room for `size` positions in each of n_layers layers. length: how many are filled."""

    def __init__(self, n_layers: int, size: int) -> None:
        self.length = 0
        self._size = size
        self._kept: list[tuple[Array, Array] | None] = [None] * n_layers

    def extend(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Append k and v (B, G, T, D) to a layer, and return all its keys and values. `advance` then moves length."""
        stop = self.length + k.shape[2]
        kept = self._kept[layer]
        if kept is None:
            room_k, room_v = (np.empty((*t.shape[:2], self._size, t.shape[3]), t.dtype) for t in (k, v))
            kept = self._kept[layer] = (room_k, room_v)
        for room, new in zip(kept, (k, v), strict=True):
            room[:, :, self.length : stop] = new
        return kept[0][:, :, :stop], kept[1][:, :, :stop]

    def advance(self, count: int) -> None:
        """Call this after the last layer: count more positions are filled."""
        self.length += count
