"""What the causal language models share: attention with a cache of earlier tokens, and the output layer."""

from collections.abc import Collection
from typing import Any

from ..adapters import Module
from ..ops import Pullback
from ..ops.compose import Stage
from ..support.array import Array
from ._cache import Cache
from ._scope import Scope


def cached_attention(
    ops: Any,
    i: int,  # the layer
    start: int,  # the position of the first query
    cache: Cache | None,
    q: Array,  # (B, H, T, D)
    k: Array,  # (B, G, T, D)
    v: Array,  # (B, G, T, D)
    *,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    key_mask: Array | None = None,
) -> tuple[Array, Pullback]:
    """Causal attention over the keys and values in the cache and these. These are appended to the cache."""
    if cache is not None:
        k, v = cache.extend(i, k, v)
    return ops.attention(
        q, k, v, scale=scale, causal=True, offset=start, window=window, key_mask=key_mask, softcap=softcap
    )


def output_layer(model: Scope, head: str, embedding: str) -> Stage:
    """x (..., C) -> logits (..., V), by the head's own weight, or by the embedding's table if it has none."""
    return model.linear(head) if f"{head}.weight" in model else model.tied(head, embedding)


def output_module(head: str, embedding: str, shape: tuple[int, int], tensors: Collection[str]) -> Module:
    """The output layer, where an adapter may sit even if it has no weight of its own."""
    own = tuple(name for name in (f"{head}.weight", f"{head}.bias") if name in tensors)
    return Module("linear", shape, own, output=True, shares="" if f"{head}.weight" in own else f"{embedding}.weight")
