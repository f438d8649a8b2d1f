"""The definition: LoRA and the ops around it, one op a file, forward and pullback side by side.

These ops are for reading and trusting, not for speed. Each is a pure function that returns its value and its pullback:

    y, pullback = lora_linear(x, W, A, B, scale=0.5)
    grads = pullback(dy)                                # {"x": dx, "A": dA, "B": dB}

`_interface` says what a pullback promises, and `compose` builds larger functions from ops. Below them lies only NumPy,
or whatever array namespace the inputs come from. Each file starts with the derivation of its backward.

Reading order: linear, lora_linear, dora_linear, merge, combine, embedding, lora_embedding, dropout, softmax, attention,
rope, compose, lora_attention, patches, lora_conv2d, lora_batched; then the rest.

Notation, the same in every file:

    L           the loss, a scalar
    dy, dB      the gradient of L with respect to y, to B; it has the shape of y, of B
    δB          a small change of B; δy and δL are the changes of y and L that follow from it, to first order
    <P, Q>      the sum over all elements of P o Q
    P o Q       the product element by element; P Q is the matrix product, P^T the transpose
    xd          x after dropout, x o mask: what the low-rank path of LoRA sees
    s           LoRA's scale

A derivation writes δL = <dy, δy>, puts in what δy is for a small change δB, and moves everything else to the left with
<P, Q R> = <P R^T, Q> = <Q^T P, R>. The other factor is then dB. The letters of shapes are listed in `checks`.
"""

from . import compose as compose
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
from .lora_batched import lora_batched
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
    "lora_batched",
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
