"""The same question with the low-rank update moved into the weights: another road to the same value."""

from collections.abc import Mapping
from typing import Any

from .. import ops

Array = Any


def merged(arrays: Mapping[str, Array], s: Array) -> dict[str, Array]:
    """arrays with W + s B A in the place of every W, and B = 0. (Not where dropout parts the two paths.)"""
    changed = dict(arrays)
    for weight in [] if "mask" in arrays else [name for name in arrays if name[0] in "WE"]:
        n = weight[1:].lstrip("_")
        A, B = (f"{factor}_{n}" if n else factor for factor in "AB")
        changed[weight], _ = ops.merge(arrays[weight], arrays[A], arrays[B], scale=s, fan_in_fan_out=weight == "E")
        changed[B] = arrays[B] * 0
    return changed
