"""lora_attention_projections: self-attention whose projections have a bias, dropout or DoRA, forward and backward."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from ...ops import Pullback
from ...ops.lora_attention import attention_block, with_rope
from ..definition import RIGHT, Definition
from ._projections import draw_extras, projection
from .contract import Array, Config, Contract, Draw, gradients, lora
from .lora_attention import block, shapes


def forward(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> tuple[Array, Pullback]:
    attend = with_rope(partial(d.attention, causal=config["causal"]), partial(d.rope, theta=config["rope_theta"]))
    D = arrays["Wq"].shape[0] // config["n_heads"]
    return attention_block(lambda n: projection(arrays, config, d, n, f"W{n}"), attend, D)(arrays["x"])


def answer(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> dict[str, Array]:
    """y, dx and dA_n, dB_n, with DoRA dm_n, for n of q, k, v, o."""
    y, pullback = forward(arrays, config, d)
    return {"y": y, **gradients(pullback(arrays["dy"]))}


def _case(
    draw: Draw, B: int, T: int, C: int, D: int, extras: tuple[str, ...], **config: Any
) -> tuple[dict[str, np.ndarray], Config]:
    """A bias, rows of length 2, and dropout, which doubles what it keeps, make large scores: q and k get less."""
    arrays, config = block(draw, B, T, C, D, None, **config)
    arrays = draw_extras(draw, arrays, shapes(C, D, **config), extras)
    for name, part in [(f"{name}_{n}", part) for name, part in (("B", 0.5), ("b", 0.5), ("m", 0.25)) for n in "qk"]:
        if name in arrays:
            arrays[name] = arrays[name] * arrays[name].dtype.type(part)
    return arrays, config


_HEADS: dict[str, Any] = {"n_heads": 2, "n_kv_heads": 1, "causal": True, "rope_theta": 500.0}

CONTRACT = Contract(
    "lora_attention_projections",
    answer,
    {
        "dropout-bias-rslora": lambda draw: _case(
            draw, 2, 3, 6, 4, ("b", "mask"), **lora(2, 3, use_rslora=True, **_HEADS)
        ),
        "dora-bias": lambda draw: _case(draw, 2, 3, 4, 4, ("b", "m"), **lora(2, 3, **_HEADS)),
    },
    forward,
)
