"""dora_linear: one linear layer with DoRA, forward and backward."""

from collections.abc import Mapping

import numpy as np

from ...ops import Pullback
from ..definition import RIGHT, Definition
from .contract import Array, Config, Contract, Draw, gradients, inputs, lora


def forward(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> tuple[Array, Pullback]:
    """The row norms n are computed, or held at what arrays have."""
    return d.dora_linear(**inputs(arrays), scale=d.scale(config))


def answer(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> dict[str, Array]:
    """y, dx, dA, dB, dm."""
    y, pullback = forward(arrays, config, d)
    return {"y": y, **gradients(pullback(arrays["dy"]))}


def _layer(draw: Draw, leading: tuple[int, ...], in_: int, out: int, config: Config) -> dict[str, np.ndarray]:
    """m is far from the row norms: m = n would hide most of what can go wrong."""
    A, B = draw.factors(out, in_, config["r"])
    arrays = {"x": draw.normal(*leading, in_), "W": draw.weight(out, in_), "A": A, "B": B}
    return {**arrays, "m": draw.magnitudes(out), "dy": draw.normal(*leading, out)}


def _tokens(draw: Draw) -> tuple[dict[str, np.ndarray], Config]:
    config = lora(4, 6)
    return _layer(draw, (7,), 10, 9, config), config


def _batch_bias_rslora(draw: Draw) -> tuple[dict[str, np.ndarray], Config]:
    config = lora(3, 2, use_rslora=True)
    return {**_layer(draw, (2, 4), 11, 8, config), "b": draw.normal(8)}, config


def _square(draw: Draw) -> tuple[dict[str, np.ndarray], Config]:
    """As many inputs as outputs: norms along the wrong axis have the right shape."""
    config = lora(2, 3)
    return {**_layer(draw, (5,), 7, 7, config), "b": draw.normal(7)}, config


CONTRACT = Contract(
    "dora_linear",
    answer,
    {"tokens": _tokens, "batch-bias-rslora": _batch_bias_rslora, "square-bias": _square},
    forward,
    leading=("x", "dy"),
)
