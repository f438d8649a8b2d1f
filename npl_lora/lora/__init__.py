"""What LoRA is besides its ops: the scale, how A and B begin, dropout masks, optimisers, the nearest low-rank matrix.

Both towers stand on it: the oracle asks implementations for these things, and training uses them. Reading order: scale,
init, masks, optimizers, low_rank.
"""

from .init import factors, uniform
from .low_rank import low_rank
from .masks import counter_rng, dropout_mask
from .optimizers import AdamWState, adamw, sgd
from .scale import lora_scale

__all__ = [
    "AdamWState",
    "adamw",
    "counter_rng",
    "dropout_mask",
    "factors",
    "lora_scale",
    "low_rank",
    "sgd",
    "uniform",
]
