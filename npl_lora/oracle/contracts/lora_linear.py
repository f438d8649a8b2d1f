"""lora_linear: one linear layer with LoRA, forward and backward."""

from collections.abc import Mapping

import numpy as np

from ...ops import Pullback
from ..definition import RIGHT, Definition
from .contract import Array, Config, Contract, Draw, Polynomial, gradients, inputs, lora, without_base


def forward(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> tuple[Array, Pullback]:
    return d.lora_linear(**inputs(arrays), scale=d.scale(config))


def answer(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> dict[str, Array]:
    """y, dx, dA, dB."""
    y, pullback = forward(arrays, config, d)
    return {"y": y, **gradients(pullback(arrays["dy"]))}


def _layer(draw: Draw, leading: tuple[int, ...], in_: int, out: int, r: int) -> dict[str, np.ndarray]:
    A, B = draw.factors(out, in_, r)
    x, dy = draw.normal(*leading, in_), draw.normal(*leading, out)
    return {"x": x, "W": draw.weight(out, in_), "A": A, "B": B, "dy": dy}


def _tokens(draw: Draw) -> tuple[dict[str, np.ndarray], Config]:
    return _layer(draw, (7,), 12, 9, 4), lora(4, 10)


def _batch_bias_rslora(draw: Draw) -> tuple[dict[str, np.ndarray], Config]:
    return {**_layer(draw, (2, 5), 10, 13, 3), "b": draw.normal(13)}, lora(3, 2, use_rslora=True)


def _dropout(draw: Draw) -> tuple[dict[str, np.ndarray], Config]:
    arrays = _layer(draw, (3, 4), 11, 8, 2)
    return {**arrays, "b": draw.normal(8), "mask": draw.dropout_mask(3, 4, 11, p=0.5)}, lora(2, 5)


def _wide(draw: Draw) -> tuple[dict[str, np.ndarray], Config]:
    """r > min(in, out), four axes."""
    return _layer(draw, (2, 1, 3), 5, 6, 8), lora(8, 3)


def _one_token(draw: Draw) -> tuple[dict[str, np.ndarray], Config]:
    return _layer(draw, (), 8, 5, 3), lora(3, 7, use_rslora=True)


def _many_tokens(draw: Draw) -> tuple[dict[str, np.ndarray], Config]:
    """More tokens than a kernel's block, which is 128 or less, and not a multiple of one."""
    return _layer(draw, (131,), 4, 5, 2), lora(2, 3)


def _exact_bias_rslora(draw: Draw) -> tuple[dict[str, np.ndarray], Config]:
    return {**_layer(draw, (2, 3), 5, 3, 4), "b": draw.normal(3)}, lora(4, 8, use_rslora=True)


def _exact_dropout(draw: Draw) -> tuple[dict[str, np.ndarray], Config]:
    return {**_layer(draw, (2, 2), 6, 5, 2), "mask": draw.dropout_mask(2, 2, 6, p=0.5)}, lora(2, 8)


CONTRACT = Contract(
    "lora_linear",
    answer,
    {
        "tokens": _tokens,
        "batch-bias-rslora": _batch_bias_rslora,
        "dropout": _dropout,
        "wide-rank": _wide,
        "one-token-rslora": _one_token,
        "no-base": lambda draw: without_base(_layer(draw, (6,), 9, 7, 3), lora(3, 5)),
        "many-tokens": _many_tokens,
        "square": lambda draw: (_layer(draw, (5,), 7, 7, 3), lora(3, 5)),
    },
    forward,
    exact={
        "exact-tokens": lambda draw: (_layer(draw, (5,), 7, 6, 2), lora(2, 8)),
        "exact-bias-rslora": _exact_bias_rslora,
        "exact-dropout": _exact_dropout,
    },
    polynomial=Polynomial("lora_linear", "dropout"),
    terms={"y": ("x W^T", "s (x A^T) B^T"), "dx": ("dy W", "s (dy B) A")},
    leading=("x", "dy", "mask"),
)
