"""The ops that lora_attention, lora_mlp and lora_conv2d are composed of, the default of their argument `ops`.

Any object with these names can take its place: tuned twins of the ops, or the wrong ones of the oracle's catalogue of
faults.
"""

from .attention import attention
from .glu import glu
from .lora_linear import lora_linear
from .rope import rope

__all__ = ["attention", "glu", "lora_linear", "rope"]
