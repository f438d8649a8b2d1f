"""Layers: parameters and a call into ops, as a course would show them.

A layer holds the arrays. The mathematics is in ops, and calling a layer returns what the op returns:

    layer = LoRALinear(in_features=512, out_features=512, rank=4, rng=0)
    y, pullback = layer(x)
    grads = pullback(dy)                                  # {"x": dx, "A": dA, "B": dB}
    for name, parameter in layer.trainable.items():
        parameter -= learning_rate * grads[name]          # a step of gradient descent

There is no hidden state between forward and backward, and no training switch. Call the pullback before you change the
parameters in place: it uses the arrays of the forward, not copies of them.
"""

from .lora_attention import LoRAAttention
from .lora_linear import LoRALinear

__all__ = ["LoRAAttention", "LoRALinear"]
