"""What faults of several kinds need to know of the LoRA path: which ops have one, and its terms in lora_linear."""

from types import SimpleNamespace

from ...support.array import Array
from ..definition import Wrap

LORA_OPS = ("lora_linear", "lora_embedding", "dora_linear")  # lora_conv2d is lora_linear on patches


def in_lora_ops(wrap: Wrap) -> dict[str, Wrap]:
    """The same mistake in every op that has A and B: a value for Fault.parts."""
    return dict.fromkeys(LORA_OPS, wrap)


def low_rank_dx(a: SimpleNamespace) -> Array:
    """The low-rank term of dx: mask o (s (dy B) A)."""
    low = unmasked_low_rank_dx(a)
    return low if a.mask is None else low * a.mask


def unmasked_low_rank_dx(a: SimpleNamespace) -> Array:
    """The low-rank term of dx without dropout: s (dy B) A."""
    return (a.scale * (a.dy @ a.B)) @ a.A


def dropped_x(a: SimpleNamespace) -> Array:
    """The input of the LoRA path: x o mask."""
    return a.x if a.mask is None else a.x * a.mask
