"""The same question with the low-rank update moved into the weights: another road to the same value."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from ... import ops
from ...support.array import Array
from ..case import is_dropout_mask


def merge_weights(arrays: Mapping[str, Array], s: Array) -> dict[str, Array]:
    """arrays with W + s B A in the place of every W, and B = 0. (Not where dropout parts the two paths.)"""
    changed = dict(arrays)
    for weight in [] if any(map(is_dropout_mask, arrays)) else [name for name in arrays if name[0] in "WE"]:
        n = weight[1:].lstrip("_")
        A, B = (f"{factor}_{n}" if n else factor for factor in "AB")
        matrices = (_matrix(arrays[name]) for name in (weight, A, B))
        update, _ = ops.merge(*matrices, scale=s, fan_in_fan_out=weight == "E")
        changed[weight] = update.__array_namespace__().reshape(update, arrays[weight].shape)
        changed[B] = arrays[B] * 0
    return changed


def merged_linear(lora_linear: Callable[..., Any]) -> Callable[..., Any]:
    """lora_linear with s B A added to W first, where each call has an adapter of its own. Only y and dx stay right."""

    def merged(x: Array, W: Array, A: Array, B: Array, *, scale: Array, **more: Array) -> Any:
        update, _ = ops.merge(W, A, B, scale=scale)
        return lora_linear(x, update, A, B * 0, scale=scale, **more)

    return merged


def _matrix(t: Array) -> Array:
    """A kernel (out, in, kh, kw) as the matrix (out, in kh kw) that it is on patches."""
    return t.__array_namespace__().reshape(t, (t.shape[0], math.prod(t.shape[1:])))
