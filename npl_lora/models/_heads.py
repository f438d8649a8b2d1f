"""Attention heads, out of the features of a token and back."""

from typing import Any

Array = Any


def split(t: Array, head_size: int) -> Array:
    """(B, T, H D) -> (B, H, T, D)."""
    xp = t.__array_namespace__()
    return xp.permute_dims(xp.reshape(t, (*t.shape[:-1], -1, head_size)), (0, 2, 1, 3))


def joined(t: Array) -> Array:
    """(B, H, T, D) -> (B, T, H D)."""
    xp = t.__array_namespace__()
    return xp.reshape(xp.permute_dims(t, (0, 2, 1, 3)), (t.shape[0], t.shape[2], -1))
