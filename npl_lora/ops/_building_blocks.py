"""The ops that lora_attention, lora_mlp, lora_conv2d and lora_batched are composed of.

They are the default of the argument `ops`. Any object with these names can take their place: tuned twins of the ops, or
the wrong ones of the oracle's catalogue of faults.
"""

from .attention import attention
from .glu import glu
from .linear import linear
from .lora_linear import lora_linear
from .rope import rope

__all__ = ["attention", "glu", "linear", "lora_linear", "rope"]
