"""rms_norm: each token divided by the root of its mean square and given a weight, forward and backward."""

from collections.abc import Mapping

import numpy as np

from ...ops import Pullback
from ..definition import RIGHT, Definition
from .contract import Array, Config, Contract, Draw, gradients, inputs


def forward(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> tuple[Array, Pullback]:
    return d.rms_norm(**inputs(arrays), eps=config["eps"])


def answer(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> dict[str, Array]:
    """y, dx, dw."""
    y, pullback = forward(arrays, config, d)
    return {"y": y, **gradients(pullback(arrays["dy"]))}


def _tokens(
    draw: Draw, leading: tuple[int, ...], n: int, eps: float, std: float = 1.0
) -> tuple[dict[str, np.ndarray], Config]:
    """The mean of a token is far from 0, as the weight is. eps is a power of two, which every dtype holds."""
    x = draw.stored(std * (0.75 + draw.widened().standard(*leading, n)))
    return {"x": x, "w": draw.away_from_zero(n), "dy": draw.normal(*leading, n)}, {"eps": eps}


def _zero_token(draw: Draw) -> tuple[dict[str, np.ndarray], Config]:
    """A token of zeros, as padding may be: eps alone keeps it from 0 / 0."""
    arrays, config = _tokens(draw, (11,), 9, 2.0**-6)
    arrays["x"][4] = 0
    return arrays, config


CONTRACT = Contract(
    "rms_norm",
    answer,
    {
        "tokens": lambda draw: _tokens(draw, (7,), 12, 2.0**-20),
        "batch": lambda draw: _tokens(draw, (2, 1, 3), 10, 2.0**-10),
        "large-eps": lambda draw: _tokens(draw, (2, 3), 11, 0.125, std=0.25),
        "zero-token": _zero_token,
        "one-token": lambda draw: _tokens(draw, (), 8, 2.0**-10),
    },
    forward,
    leading=("x", "dy"),
)
