"""lora_conv2d: y = conv(x, W) + s conv(conv(x, A), B), a convolution with LoRA.

W (Co, Ci, kh, kw) is frozen; A (r, Ci, kh, kw) is a convolution into r channels with W's own kernel, stride, padding
and dilation; B (Co, r, 1, 1) mixes them into the Co channels of the output, at each place for itself.

Derivation. On the patches p(x) that the kernel sees, a convolution is a linear layer, and a 1 x 1 convolution is one
on channels:

    conv(x, W) = p W^T,     conv(conv(x, A), B) = (p A^T) B^T,     with W, A, B read as (Co, K), (r, K), (Co, r)

and K = Ci kh kw. So this is lora_linear on p(x), and its gradients by A and B are lora_linear's; the gradient by p goes
back to x through the pullback of patches. The update of the kernel is s B A, read as (Co, Ci, kh, kw).

Source: Hu et al. 2021 for the update; this factorisation is PEFT's (loralib's ConvLoRA has another one).
"""

import math
from typing import Any

from . import _building_blocks
from ._interface import Array, Pullback
from .checks import check_inputs, check_number
from .patches import Pair, patches


def lora_conv2d(
    x: Array,
    W: Array,
    A: Array,
    B: Array,
    *,
    scale: float,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    ops: Any = _building_blocks,
) -> tuple[Array, Pullback]:
    """y = conv(x, W) + scale conv(conv(x, A), B), conv being cross-correlation with zero padding, groups 1.

    x (N, Ci, H, W), W (Co, Ci, kh, kw), A (r, Ci, kh, kw), B (Co, r, 1, 1) -> y (N, Co, Ho, Wo). stride, padding,
    dilation: a pair each. ops: the lora_linear that it is made of. The pullback differentiates x, A and B, and W when
    asked. Raises TypeError and ValueError for what does not fit.
    """
    xp, n = check_inputs(W=(W, "Co Ci kh kw"), x=(x, "N Ci H W"), A=(A, "r Ci kh kw"), B=(B, "Co r one_row one_column"))
    if (n["one_row"], n["one_column"]) != (1, 1):
        raise ValueError(f"B has shape {tuple(B.shape)}, expected (Co, r, 1, 1) = ({n['Co']}, {n['r']}, 1, 1)")
    seen, patches_pullback = patches(x, kernel=(n["kh"], n["kw"]), stride=stride, padding=padding, dilation=dilation)
    kernels = {"W": W, "A": A, "B": B}
    matrices = {name: xp.reshape(t, (t.shape[0], math.prod(t.shape[1:]))) for name, t in kernels.items()}
    out, linear_pullback = ops.lora_linear(seen, **matrices, scale=check_number("scale", scale))
    y = xp.permute_dims(out, (0, 3, 1, 2))  # channels last, as linear layers have them, and back

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        found = linear_pullback(xp.permute_dims(dy, (0, 2, 3, 1)), wrt=wrt)
        grads = {name: xp.reshape(found[name], kernel.shape) for name, kernel in kernels.items() if name in wrt}
        if "x" in wrt:
            grads["x"] = patches_pullback(found["x"])["x"]
        return grads

    return y, Pullback(backward, y, inputs=("x", "A", "B", "W"), frozen=("W",))
