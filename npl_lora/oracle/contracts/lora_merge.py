"""lora_merge: the low-rank update added to the weight, and taken away again."""

from collections.abc import Mapping

import numpy as np

from ... import ops
from ._contract import Array, Config, Contract, Draw, lora, scale


def answer(arrays: Mapping[str, Array], config: Config) -> dict[str, Array]:
    """W_merged = W + s B A, and W_unmerged = W."""
    A, B, how = arrays["A"], arrays["B"], {"scale": scale(config), "fan_in_fan_out": config["fan_in_fan_out"]}
    W_merged, _ = ops.merge(arrays["W"], A, B, **how)
    W_unmerged, _ = ops.unmerge(W_merged, A, B, **how)
    return {"W_merged": W_merged, "W_unmerged": W_unmerged}


def _merge(draw: Draw, out: int, in_: int, config: Config) -> tuple[dict[str, np.ndarray], Config]:
    A, B = draw.factors(out, in_, config["r"])
    W = draw.weight(out, in_)
    return {"W": np.ascontiguousarray(W.T) if config["fan_in_fan_out"] else W, "A": A, "B": B}, config


CONTRACT = Contract(
    "lora_merge",
    answer,
    {
        "plain": lambda draw: _merge(draw, 9, 12, lora(4, 10, fan_in_fan_out=False)),
        "rslora": lambda draw: _merge(draw, 13, 10, lora(3, 2, use_rslora=True, fan_in_fan_out=False)),
        "fan-in-fan-out": lambda draw: _merge(draw, 8, 11, lora(2, 5, fan_in_fan_out=True)),
        "square-fan-in-fan-out": lambda draw: _merge(draw, 7, 7, lora(3, 4, fan_in_fan_out=True)),
    },
)
