"""adapter_combine: several adapters of one weight made into one, exactly ("cat") or at a lower rank ("svd")."""

from collections.abc import Mapping

import numpy as np

from ..definition import RIGHT, Definition
from .contract import Array, Config, Contract, Draw, scales

_GAP = 1.75  # the protocol's 1.5 between the singular values at r_new, and room for rounding to the case's dtype


def answer(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> dict[str, Array]:
    """delta, the change of W that the combined adapter makes."""
    delta, _ = d.combine(weights=config["weights"], scales=scales(config, d), **arrays)
    return {"delta": d.low_rank(delta, config["r_new"]) if config["combination"] == "svd" else delta}


def _adapters(draw: Draw, out: int, in_: int, config: Config) -> tuple[dict[str, np.ndarray], Config]:
    arrays = {}
    for i, r in enumerate(config["r"], start=1):
        arrays[f"A_{i}"], arrays[f"B_{i}"] = draw.factors(out, in_, r)
    return arrays, config


def _with_a_gap(draw: Draw, out: int, in_: int, config: Config) -> tuple[dict[str, np.ndarray], Config]:
    """Drawn again until there is a gap. Looked for in float64, whatever the dtype: all are to draw the same numbers."""
    wide, r_new = draw.widened(), config["r_new"]
    while True:
        arrays, _ = _adapters(wide, out, in_, config)
        exact = answer(arrays, {**config, "combination": "cat"})["delta"]
        sigma = np.linalg.svd(exact, compute_uv=False)
        if sigma[r_new - 1] >= _GAP * sigma[r_new]:
            return {name: draw.stored(array) for name, array in arrays.items()}, config


def _one(r: int, alpha: int, use_rslora: bool, weight: float) -> Config:
    return {"r": [r], "alpha": [alpha], "use_rslora": [use_rslora], "weights": [weight], "combination": "cat"}


_TWO = {"r": [3, 2], "alpha": [5, 3], "use_rslora": [False, True], "weights": [0.75, -1.25], "combination": "cat"}
_ALIKE = {"r": [3, 3], "alpha": [4, 2], "use_rslora": [False, False], "weights": [1.5, -0.5], "combination": "cat"}
_THREE = {"r": [2, 4, 3], "alpha": [3, 6, 2], "use_rslora": [True, False, True], "weights": [0.5, -0.75, 1.5]}
_THREE |= {"combination": "cat"}
_WHOLE = {"r": [2, 4], "alpha": [8, 8], "use_rslora": [False, True], "weights": [4.0, -1.0], "combination": "cat"}


def _svd(config: Config, r_new: int) -> Config:
    return {**config, "combination": "svd", "r_new": r_new}


CONTRACT = Contract(
    "adapter_combine",
    answer,
    {
        "two": lambda draw: _adapters(draw, 9, 12, _TWO),
        "two-of-a-rank": lambda draw: _adapters(draw, 8, 10, _ALIKE),
        "three-rslora": lambda draw: _adapters(draw, 10, 7, _THREE),
        "one": lambda draw: _adapters(draw, 8, 11, _one(4, 10, False, -0.75)),
        "one-rslora": lambda draw: _adapters(draw, 7, 9, _one(3, 2, True, 1.0)),
        "two-svd": lambda draw: _with_a_gap(draw, 9, 12, _svd(_TWO, 3)),
        "three-rslora-svd": lambda draw: _with_a_gap(draw, 10, 7, _svd(_THREE, 2)),
        "one-svd": lambda draw: _with_a_gap(draw, 8, 11, _svd(_one(4, 10, False, -0.75), 2)),
    },
    exact={"exact": lambda draw: _adapters(draw, 6, 5, _WHOLE)},
)
