"""lora_conv2d: a convolution with LoRA, forward and backward."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...ops import Pullback
from ..definition import RIGHT, Definition
from .contract import Array, Config, Contract, Draw, Polynomial, gradients, inputs, lora


def forward(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> tuple[Array, Pullback]:
    how = {name: config[name] for name in ("stride", "padding", "dilation")}
    return d.lora_conv2d(**inputs(arrays), scale=d.scale(config), ops=d, **how)


def answer(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> dict[str, Array]:
    """y, dx, dA, dB."""
    y, pullback = forward(arrays, config, d)
    return {"y": y, **gradients(pullback(arrays["dy"]))}


def _image(
    draw: Draw, image: tuple[int, int, int, int], Co: int, kernel: tuple[int, int], config: Config
) -> tuple[dict[str, np.ndarray], Config]:
    """image: N, Ci, H, W."""
    Ci, r, size = image[1], config["r"], image[1] * kernel[0] * kernel[1]
    arrays = {"x": draw.normal(*image), "W": draw.normal(Co, Ci, *kernel, std=1 / math.sqrt(size))}
    arrays["A"] = draw.normal(r, Ci, *kernel, std=1 / math.sqrt(size))
    arrays["B"] = draw.normal(Co, r, 1, 1, std=1 / math.sqrt(r))
    out = forward({name: a.astype(np.float64) for name, a in arrays.items()}, config)[0].shape
    return {**arrays, "dy": draw.normal(*out)}, config


def _config(stride: list[int], padding: list[int], dilation: list[int], **how: Any) -> Config:
    return lora(**how, stride=stride, padding=padding, dilation=dilation)


CONTRACT = Contract(
    "lora_conv2d",
    answer,
    {
        "plain": lambda draw: _image(draw, (2, 3, 5, 4), 5, (3, 2), _config([1, 1], [0, 0], [1, 1], r=2, alpha=3)),
        "strided-padded-rslora": lambda draw: _image(
            draw, (2, 2, 6, 5), 4, (3, 3), _config([2, 1], [1, 2], [1, 1], r=3, alpha=2, use_rslora=True)
        ),
        "dilated": lambda draw: _image(draw, (1, 2, 7, 6), 3, (3, 2), _config([1, 1], [1, 0], [2, 3], r=2, alpha=5)),
        # Sizes at which a kernel without dilation gives as many places as one with: only the numbers differ.
        "dilated-strided": lambda draw: _image(
            draw, (2, 3, 6, 7), 4, (2, 2), _config([3, 3], [0, 1], [2, 2], r=2, alpha=3)
        ),
        # Sizes at which strides or padding exchanged between rows and columns give as many places.
        "exchangeable": lambda draw: _image(
            draw, (2, 3, 7, 7), 4, (2, 2), _config([4, 5], [0, 1], [1, 1], r=3, alpha=5, use_rslora=True)
        ),
        "one-by-one": lambda draw: _image(draw, (2, 5, 3, 4), 6, (1, 1), _config([1, 2], [0, 0], [1, 1], r=4, alpha=6)),
        # The form of most convolutions: y is as large as x.
        "same": lambda draw: _image(draw, (2, 3, 5, 4), 4, (3, 3), _config([1, 1], [1, 1], [1, 1], r=2, alpha=3)),
    },
    forward,
    polynomial=Polynomial("lora_conv2d", "strided-padded-rslora"),
    terms={
        "y": ("conv(x, W)", "s conv(conv(x, A), B)"),
        "dx": ("that goes through W", "that goes through A and B"),
    },
)
