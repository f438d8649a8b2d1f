"""lora_mlp: the gated MLP with LoRA on all three projections, forward and backward."""

from collections.abc import Mapping

import numpy as np

from ...ops import Pullback
from ..definition import RIGHT, Definition
from .contract import Array, Config, Contract, Draw, gradients, inputs, lora


def forward(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> tuple[Array, Pullback]:
    return d.lora_mlp(**inputs(arrays), scale=d.scale(config), activation=config["activation"], ops=d)


def answer(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> dict[str, Array]:
    """y, dx and dA_n, dB_n for n of gate, up, down."""
    y, pullback = forward(arrays, config, d)
    return {"y": y, **gradients(pullback(arrays["dy"]))}


def shapes(C: int, F: int) -> dict[str, tuple[int, int]]:
    """(out, in) of each projection."""
    return {"gate": (F, C), "up": (F, C), "down": (C, F)}


def block(draw: Draw, leading: tuple[int, ...], C: int, F: int, config: Config) -> tuple[dict[str, np.ndarray], Config]:
    arrays = {"x": draw.normal(*leading, C)}
    for n, (out, in_) in shapes(C, F).items():
        arrays[f"W_{n}"] = draw.weight(out, in_)
        arrays[f"A_{n}"], arrays[f"B_{n}"] = draw.factors(out, in_, config["r"])
    return {**arrays, "dy": draw.normal(*leading, C)}, config


CONTRACT = Contract(
    "lora_mlp",
    answer,
    {
        "silu": lambda draw: block(draw, (2, 3), 7, 10, lora(3, 2, activation="silu")),
        "gelu-rslora": lambda draw: block(draw, (5,), 8, 11, lora(2, 3, use_rslora=True, activation="gelu")),
        "gelu-tanh": lambda draw: block(draw, (2, 2), 9, 6, lora(4, 6, activation="gelu_tanh")),
    },
    forward,
    leading=("x", "dy"),
)
