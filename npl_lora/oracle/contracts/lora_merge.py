"""lora_merge: the low-rank update added to the weight, and taken away again."""

from collections.abc import Mapping

import numpy as np

from ..definition import RIGHT, Definition
from .contract import Array, Config, Contract, Draw, Polynomial, lora, without_base


def answer(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> dict[str, Array]:
    """W_merged = W + s B A, and W_unmerged = W."""
    A, B, how = arrays["A"], arrays["B"], {"scale": d.scale(config), "fan_in_fan_out": config["fan_in_fan_out"]}
    W_merged, _ = d.merge(arrays["W"], A, B, **how)
    W_unmerged, _ = d.unmerge(W_merged, A, B, **how)
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
        "no-base": lambda draw: without_base(*_merge(draw, 8, 6, lora(3, 5, fan_in_fan_out=False))),
    },
    exact={
        "exact": lambda draw: _merge(draw, 6, 9, lora(2, 8, fan_in_fan_out=False)),
        "exact-fan-in-fan-out-rslora": lambda draw: _merge(
            draw, 7, 5, lora(4, 8, use_rslora=True, fan_in_fan_out=True)
        ),
    },
    polynomial=Polynomial("merge", "fan-in-fan-out"),
    terms={"W_merged": ("W", "s B A"), "W_unmerged": ("W", "s B A")},
)
