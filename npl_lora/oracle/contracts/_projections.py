"""A projection with all that a linear layer with LoRA may have: a bias, dropout, DoRA."""

from collections.abc import Mapping
from functools import partial

import numpy as np

from ...ops.compose import Stage, renamed
from ..definition import Definition
from .contract import Array, Config, Draw


def projection(arrays: Mapping[str, Array], config: Config, d: Definition, n: str, W: str) -> Stage:
    """dora_linear if there is a magnitude m_n, lora_linear if not, with the case's b_n and mask_n.

    W: the name of its weight. n_n, if given, holds DoRA's norm fixed.
    """
    settings = {"W": arrays[W], "A": arrays[f"A_{n}"], "B": arrays[f"B_{n}"], "scale": d.scale(config)}
    optional = ("b", "m", "n") if f"m_{n}" in arrays else ("b", "mask")
    settings |= {name: arrays[f"{name}_{n}"] for name in optional if f"{name}_{n}" in arrays}
    op = d.dora_linear if "m" in settings else d.lora_linear
    return renamed(partial(op, **settings), {"W": W, **{name: f"{name}_{n}" for name in ("A", "B", "m", "b")}})


def draw_extras(
    draw: Draw, arrays: dict[str, np.ndarray], shapes: Mapping[str, tuple[int, int]], extras: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """The case with a bias ("b"), dropout ("mask") or a magnitude ("m") for each projection n: (out, in) of shapes."""
    leading = arrays["x"].shape[:-1]
    drawn = {
        "b": lambda out, in_: draw.normal(out),
        "mask": lambda out, in_: draw.dropout_mask(*leading, in_, p=0.5),
        "m": lambda out, in_: draw.magnitudes(out),
    }
    return {**arrays, **{f"{name}_{n}": drawn[name](*shape) for n, shape in shapes.items() for name in extras}}
