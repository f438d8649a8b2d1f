"""What the composed ops are made of. lora_attention, lora_mlp and lora_conv2d take any object with these names as
`ops`: tuned twins, or, in the oracle's catalogue of faults, wrong ones."""

from .attention import attention
from .glu import glu
from .lora_linear import lora_linear
from .rope import rope

__all__ = ["attention", "glu", "lora_linear", "rope"]
