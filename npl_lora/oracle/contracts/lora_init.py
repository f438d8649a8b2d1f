"""lora_init: what A and B are before training. An addition to protocol 1.

One factor is exactly zero, so that the adapter changes nothing; the other is drawn at random, independently, from the
distribution that the configuration names:

    layer "linear"       B = 0,  A from "kaiming_uniform", U(-1/sqrt(in), 1/sqrt(in)), or "gaussian", N(0, 1/r^2)
    layer "embedding"    A = 0,  B from "normal", N(0, 1)

Source: Hu et al. 2021, section 4.1; the distributions are those of PEFT's init_lora_weights (see layers/init.py for
why Kaiming's bound is 1/sqrt(in)).
"""

import math
from collections.abc import Mapping

import numpy as np

from ..definition import RIGHT, Definition
from ..tolerance.statistics import Distribution
from .contract import Array, Config, Contract, Draw, lora


def answer(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> dict[str, Array | Distribution]:
    """A and B: an array of zeros, and a distribution."""
    W, r = arrays["W"], config["r"]
    out, in_ = W.shape if config["layer"] == "linear" else reversed(W.shape)
    shapes = {"A": (r, in_), "B": (out, r)}
    drawn = "A" if config["layer"] == "linear" else "B"
    zeros = W.__array_namespace__().zeros(shapes["B" if drawn == "A" else "A"])
    kind, spread = distributions(in_, r)[config["distribution"]]
    found = {drawn: Distribution(kind, spread, shapes[drawn], 0.0)}
    return {name: found.get(name, zeros) for name in ("A", "B")}


def distributions(in_: int, r: int) -> dict[str, tuple[str, float]]:
    """name -> kind, spread."""
    bound = 1.0 / math.sqrt(in_)
    return {"kaiming_uniform": ("uniform", bound), "gaussian": ("normal", 1.0 / r), "normal": ("normal", 1.0)}


def _layer(draw: Draw, shape: tuple[int, int], layer: str, distribution: str) -> tuple[dict[str, np.ndarray], Config]:
    config = lora(16, 24, layer=layer, distribution=distribution)
    return {"W": draw.normal(*shape, std=0.25)}, config


CONTRACT = Contract(
    "lora_init",
    answer,
    {
        "linear-kaiming": lambda draw: _layer(draw, (24, 512), "linear", "kaiming_uniform"),
        "linear-gaussian": lambda draw: _layer(draw, (20, 512), "linear", "gaussian"),
        "embedding-normal": lambda draw: _layer(draw, (40, 512), "embedding", "normal"),
    },
)
