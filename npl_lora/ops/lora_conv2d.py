"""lora_conv2d: y = conv(x, W) + s conv(conv(x, A), B), a convolution with LoRA.

W (Co, Ci, kh, kw) is frozen. A (r, Ci, kh, kw) is a convolution into r channels, with the same kernel size, stride,
padding and dilation as W. B (Co, r, 1, 1) mixes the r channels into the Co channels of the output, at each place on its
own.

Derivation. Let p be the patches of x that the kernel sees (see patches.py). On patches, a convolution is a linear
layer, and a 1 x 1 convolution is a linear layer on channels:

    conv(x, W) = p W^T,     conv(conv(x, A), B) = (p A^T) B^T

where W, A and B are read as matrices (Co, K), (r, K) and (Co, r), with K = Ci kh kw. So this is lora_linear
on patches:

    p = patches(x)
    y = p W^T + s (p A^T) B^T

dW, dA and dB are lora_linear's, and dp goes back to x through the pullback of patches. The update of the kernel is
s B A, read as (Co, Ci, kh, kw).

Source: Hu et al. 2021 for the update. This factorisation is PEFT's; loralib's ConvLoRA has another one.
"""

from __future__ import annotations

import math
from typing import Any

from . import _building_blocks
from ._interface import Array, Pullback
from .checks import check_inputs, check_number
from .patches import Pair, patches


def lora_conv2d(
    x: Array,  # (N, Ci, H, W)
    W: Array,  # (Co, Ci, kh, kw), frozen
    A: Array,  # (r, Ci, kh, kw)
    B: Array,  # (Co, r, 1, 1)
    *,
    scale: float,  # s, as in lora_linear
    stride: Pair = (1, 1),  # (sh, sw)
    padding: Pair = (0, 0),  # (ph, pw), of zeros
    dilation: Pair = (1, 1),  # (dh, dw)
    ops: Any = None,  # the lora_linear to use
) -> tuple[Array, Pullback]:  # y (N, Co, Ho, Wo)
    """y = conv(x, W) + scale conv(conv(x, A), B), where conv is cross-correlation with zero padding and groups = 1.

    Shapes: x (N, Ci, H, W), W (Co, Ci, kh, kw) frozen, A (r, Ci, kh, kw), B (Co, r, 1, 1) -> y (N, Co, Ho, Wo).

    stride, padding, dilation: a pair each, rows first.
    ops: the lora_linear that this op is composed of, npl_lora.ops's own unless given.
    The pullback differentiates x, A and B, and W when `wrt` names it.
    Raises TypeError and ValueError for arguments that do not fit together.
    Derivation: at the top of npl_lora/ops/lora_conv2d.py.
    """
    xp, n = check_inputs(W=(W, "Co Ci kh kw"), x=(x, "N Ci H W"), A=(A, "r Ci kh kw"), B=(B, "Co r one_row one_column"))
    if (n["one_row"], n["one_column"]) != (1, 1):
        raise ValueError(f"B has shape {tuple(B.shape)}, expected (Co, r, 1, 1) = ({n['Co']}, {n['r']}, 1, 1)")
    p, patches_pullback = patches(x, kernel=(n["kh"], n["kw"]), stride=stride, padding=padding, dilation=dilation)
    kernels = {"W": W, "A": A, "B": B}
    ops = _building_blocks if ops is None else ops
    matrices = {name: xp.reshape(t, (t.shape[0], math.prod(t.shape[1:]))) for name, t in kernels.items()}
    out, linear_pullback = ops.lora_linear(p, **matrices, scale=check_number("scale", scale))
    y = xp.permute_dims(out, (0, 3, 1, 2))  # a linear layer has its channels last

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        # forward was: y = p W^T + s (p A^T) B^T
        linear_grads = linear_pullback(xp.permute_dims(dy, (0, 2, 3, 1)), wrt=wrt)
        grads = {name: xp.reshape(linear_grads[name], kernels[name].shape) for name in kernels if name in wrt}
        if "x" in wrt:
            grads["x"] = patches_pullback(linear_grads["x"])["x"]  # forward was: p = patches(x)
        return grads

    return y, Pullback(backward, y, inputs=("x", "A", "B", "W"), frozen=("W",))
