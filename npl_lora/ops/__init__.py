"""The definition: LoRA and what surrounds it, one op a file, forward and pullback side by side.

For reading and trusting, not for speed. Every op is a pure function that returns its value and its pullback (see
`_interface`); nothing but NumPy, or whatever array namespace the inputs come from, lies below. Reading order: linear,
lora_linear, dora_linear, merge, combine, embedding, lora_embedding, dropout, softmax, attention, rope, lora_attention,
patches, lora_conv2d; then the rest.
"""

from ._interface import Pullback
from .attention import attention
from .combine import combine
from .cross_entropy import cross_entropy
from .dora_linear import dora_linear
from .dropout import dropout
from .embedding import embedding
from .gated_mlp import gated_mlp
from .gelu import gelu, gelu_tanh
from .glu import glu
from .layer_norm import layer_norm
from .linear import linear
from .lora_attention import lora_attention
from .lora_conv2d import lora_conv2d
from .lora_embedding import lora_embedding
from .lora_linear import lora_linear
from .lora_mlp import lora_mlp
from .masked_mean import masked_mean
from .mean_squared_error import mean_squared_error
from .merge import merge, unmerge
from .patches import patches
from .relu import relu
from .rms_norm import rms_norm
from .rope import rope
from .silu import silu
from .softmax import softmax
from .tanh import tanh

__all__ = [
    "Pullback",
    "attention",
    "combine",
    "cross_entropy",
    "dora_linear",
    "dropout",
    "embedding",
    "gated_mlp",
    "gelu",
    "gelu_tanh",
    "glu",
    "layer_norm",
    "linear",
    "lora_attention",
    "lora_conv2d",
    "lora_embedding",
    "lora_linear",
    "lora_mlp",
    "masked_mean",
    "mean_squared_error",
    "merge",
    "patches",
    "relu",
    "rms_norm",
    "rope",
    "silu",
    "softmax",
    "tanh",
    "unmerge",
]
