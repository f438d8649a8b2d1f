"""rope: rotary position embedding at given positions, forward and backward."""

from collections.abc import Mapping

import numpy as np

from ...ops import Pullback
from ..definition import RIGHT, Definition
from .contract import Array, Config, Contract, Draw, gradients


def forward(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> tuple[Array, Pullback]:
    """The op counts its positions from a start, so each stretch of consecutive ones is a call of its own."""
    x, positions = arrays["x"], [int(p) for p in arrays["positions"]]
    xp, settings = x.__array_namespace__(), {"theta": config["theta"], "interleaved": config["interleaved"]}
    starts = [t for t, p in enumerate(positions) if t == 0 or p != positions[t - 1] + 1]
    stretches = [slice(start, end) for start, end in zip(starts, [*starts[1:], len(positions)], strict=True)]
    parts = [d.rope(x[..., at, :], start=positions[at.start], **settings) for at in stretches]
    y = xp.concat(tuple(part for part, _ in parts), axis=-2)

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        if "x" not in wrt:
            return {}
        dx = [pullback(dy[..., at, :])["x"] for at, (_, pullback) in zip(stretches, parts, strict=True)]
        return {"x": xp.concat(tuple(dx), axis=-2)}

    return y, Pullback(backward, y, inputs=("x",))


def answer(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> dict[str, Array]:
    """y, dx."""
    y, pullback = forward(arrays, config, d)
    return {"y": y, **gradients(pullback(arrays["dy"]))}


def _heads(
    draw: Draw, leading: tuple[int, ...], positions: list[int], D: int, theta: float, interleaved: bool = False
) -> tuple[dict[str, np.ndarray], Config]:
    """Positions are small: the angle of a large one has few right digits in half precision."""
    shape = (*leading, len(positions), D)
    arrays = {"x": draw.normal(*shape), "positions": np.asarray(positions, dtype=np.int64), "dy": draw.normal(*shape)}
    return arrays, {"theta": theta, "interleaved": interleaved}


CONTRACT = Contract(
    "rope",
    answer,
    {
        "halves": lambda draw: _heads(draw, (2, 3), [0, 1, 2, 3, 4], 8, 10240.0),
        "offset": lambda draw: _heads(draw, (3,), [4, 5, 6, 7], 6, 500.0),
        "gaps": lambda draw: _heads(draw, (2, 2), [3, 0, 0, 1, 6], 4, 500.0),
        "interleaved": lambda draw: _heads(draw, (3, 2), [0, 1, 2, 3], 8, 500.0, interleaved=True),
        "interleaved-gaps": lambda draw: _heads(draw, (3,), [2, 2, 5, 9], 6, 10240.0, interleaved=True),
    },
    forward,
)
