"""What LoRA needs besides its ops: the scale, initial values, dropout masks, optimisers and low-rank approximation.

The oracle checks implementations of these things, and training uses them. Reading order: scale, init, masks,
optimizers, low_rank.
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
