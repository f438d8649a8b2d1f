"""cross_entropy: the loss of next-token prediction over an accumulation window, and its gradient."""

from collections.abc import Mapping

import numpy as np

from ...ops import Pullback
from ..definition import RIGHT, Definition
from .contract import Array, Config, Contract, Draw


def forward(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> tuple[Array, Pullback]:
    """Position t predicts the label at t + 1."""
    return d.cross_entropy(arrays["logits"][:, :-1, :], arrays["labels"][:, 1:], ignore_index=config["ignore_index"])


def answer(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> dict[str, Array]:
    """loss, dlogits. How the batch is cut into micro-batches does not change what is right."""
    loss, pullback = forward(arrays, config, d)
    xp, last = arrays["logits"].__array_namespace__(), arrays["logits"][:, -1:, :]
    return {"loss": loss, "dlogits": xp.concat((pullback(1.0)["logits"], xp.zeros_like(last)), axis=1)}


def _batch(
    draw: Draw, B: int, T: int, V: int, ignored: list[list[int]], config: Config
) -> tuple[dict[str, np.ndarray], Config]:
    """ignored: for each batch row, the positions whose label does not count."""
    labels = draw.integers(V, B, T)
    for row, positions in enumerate(ignored):
        labels[row, positions] = config["ignore_index"]
    return {"logits": draw.normal(B, T, V, std=2.0), "labels": labels}, config


def _extreme(draw: Draw, gaps: list[float]) -> tuple[dict[str, np.ndarray], Config]:
    """gaps: for each position, how far its label's logit is above all others, or below one of them if negative. No
    dtype's exp holds e^1024, and none holds e^-1024. A gap of 0 leaves the position as it is drawn."""
    arrays, config = _batch(draw, 1, len(gaps) + 1, 7, [[]], _config(-100, 1))
    logits, labels = arrays["logits"].astype(np.float64), arrays["labels"]
    for t, gap in enumerate(gaps):
        label = labels[0, t + 1]
        if gap > 0:
            logits[0, t, label] = gap
        elif gap < 0:
            logits[0, t, (label + 2) % 7] = -gap
    return {"logits": draw.stored(logits), "labels": labels}, config


def _config(ignore_index: int, accumulation: int) -> Config:
    return {"ignore_index": ignore_index, "accumulation": accumulation}


CONTRACT = Contract(
    "cross_entropy",
    answer,
    {
        "ignored": lambda draw: _batch(draw, 2, 5, 7, [[0, 3], [1]], _config(-100, 1)),
        "accumulated": lambda draw: _batch(draw, 4, 5, 9, [[2, 3, 4], [], [1], [0]], _config(-100, 2)),
        "empty-micro-batch": lambda draw: _batch(draw, 4, 4, 6, [[1, 2, 3], [1, 2, 3], [2], []], _config(-1, 2)),
        "nothing-counts": lambda draw: _batch(draw, 2, 3, 5, [[1, 2], [0, 1, 2]], _config(-100, 1)),
        "certain-label": lambda draw: _extreme(draw, [1024.0, 0.0, 48.0]),
        "impossible-label": lambda draw: _extreme(draw, [0.0, -1024.0]),
        "large-vocabulary": lambda draw: _batch(draw, 1, 2, 1031, [[]], _config(-100, 1)),
        "many-tokens": lambda draw: _batch(draw, 1, 135, 3, [[1, 2, 3]], _config(-100, 1)),
    },
    forward,
    value_name="loss",
)
