"""lora_mlp_projections: the gated MLP whose projections have a bias, dropout or DoRA, forward and backward."""

from collections.abc import Mapping
from functools import partial

import numpy as np

from ...ops import Pullback
from ...ops.lora_mlp import mlp_block
from ..definition import RIGHT, Definition
from ._projections import draw_extras, projection
from .contract import Array, Config, Contract, Draw, gradients, lora
from .lora_mlp import block, shapes


def forward(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> tuple[Array, Pullback]:
    glu = partial(d.glu, activation=config["activation"])
    return mlp_block(lambda n: projection(arrays, config, d, n, f"W_{n}"), glu)(arrays["x"])


def answer(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> dict[str, Array]:
    """y, dx and dA_n, dB_n, with DoRA dm_n, for n of gate, up, down."""
    y, pullback = forward(arrays, config, d)
    return {"y": y, **gradients(pullback(arrays["dy"]))}


def _case(
    draw: Draw, leading: tuple[int, ...], C: int, F: int, extras: tuple[str, ...], config: Config
) -> tuple[dict[str, np.ndarray], Config]:
    arrays, config = block(draw, leading, C, F, config)
    return draw_extras(draw, arrays, shapes(C, F), extras), config


CONTRACT = Contract(
    "lora_mlp_projections",
    answer,
    {
        "dropout-bias": lambda draw: _case(draw, (2, 3), 5, 6, ("b", "mask"), lora(2, 3, activation="gelu")),
        "dora-bias-rslora": lambda draw: _case(
            draw, (3,), 5, 7, ("b", "m"), lora(2, 5, use_rslora=True, activation="gelu_tanh")
        ),
    },
    forward,
    leading=("x", "dy", "mask_gate", "mask_up", "mask_down"),
)
