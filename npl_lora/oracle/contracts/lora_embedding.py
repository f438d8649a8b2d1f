"""lora_embedding: a table of tokens with LoRA, forward and backward."""

import math
from collections.abc import Mapping

import numpy as np

from ...ops import Pullback
from ..definition import RIGHT, Definition
from .contract import Array, Config, Contract, Draw, Polynomial, gradients, inputs, lora, without_base


def forward(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> tuple[Array, Pullback]:
    return d.lora_embedding(**inputs(arrays), scale=d.scale(config), padding_idx=config["padding_idx"])


def answer(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> dict[str, Array]:
    """y, dA, dB."""
    y, pullback = forward(arrays, config, d)
    return {"y": y, **gradients(pullback(arrays["dy"]))}


def table(draw: Draw, ids: list, V: int, D: int, config: Config) -> tuple[dict[str, np.ndarray], Config]:
    """The ids repeat within a row and across rows, and the padding token is among them."""
    r, tokens = config["r"], np.asarray(ids, dtype=np.int64)
    A, B = draw.normal(r, V), draw.normal(D, r, std=1 / math.sqrt(r))
    return {"ids": tokens, "E": draw.normal(V, D), "A": A, "B": B, "dy": draw.normal(*tokens.shape, D)}, config


_ROWS = [[3, 0, 3, 7, 10], [1, 3, 0, 0, 9]]

CONTRACT = Contract(
    "lora_embedding",
    answer,
    {
        "repeated-ids": lambda draw: table(draw, _ROWS, 11, 6, lora(4, 10, padding_idx=None)),
        "padding-rslora": lambda draw: table(draw, _ROWS, 11, 7, lora(3, 2, use_rslora=True, padding_idx=0)),
        "padding-inside": lambda draw: table(draw, [5, 2, 5, 5, 2, 8], 9, 5, lora(2, 5, padding_idx=5)),
        "no-base": lambda draw: without_base(*table(draw, _ROWS, 12, 5, lora(3, 7, padding_idx=None))),
    },
    forward,
    exact={
        "exact-repeated-ids": lambda draw: table(draw, [[3, 0, 3], [4, 3, 0]], 6, 5, lora(2, 8, padding_idx=None)),
        "exact-padding-rslora": lambda draw: table(
            draw, [5, 2, 5, 0, 2], 7, 6, lora(4, 8, use_rslora=True, padding_idx=5)
        ),
    },
    polynomial=Polynomial("lora_embedding", "repeated-ids"),
    terms={"y": ("E[ids]", "s (A^T)[ids] B^T")},
)
