"""Edits of what the low-rank path alone gets: the base path sees x as it should."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np

from ...ops import Pullback
from ...support.array import Array


@dataclass(frozen=True)
class InputChange:
    """A change of what A gets, and what the gradient goes through on its way back: its transpose, if it is linear.

    after_dropout: whether dropout comes first.
    """

    apply: Callable[[Array], Array]
    transpose: Callable[[Array], Array]
    after_dropout: bool = False


def with_low_rank_input(change: InputChange, lora_linear: Any) -> Any:
    """y = x W^T + b + scale (change(x) A^T) B^T, with its own gradients."""

    @wraps(lora_linear)
    def wrong(x: Array, W: Array, A: Array, B: Array, *, b: Any = None, mask: Any = None, **how: Any) -> Any:
        drop = (lambda t: t * mask) if change.after_dropout and mask is not None else (lambda t: t)
        base, base_pullback = lora_linear(x, W, A, 0.0 * B, b=b, **how)
        low, low_pullback = lora_linear(
            change.apply(drop(x)), 0.0 * W, A, B, mask=None if change.after_dropout else mask, **how
        )
        y = base + low

        def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
            low_grads, base_grads = low_pullback(dy, wrt=wrt & {"x", "A", "B"}), base_pullback(dy, wrt=wrt - {"A", "B"})
            grads = {**base_grads, **low_grads}
            if "x" in wrt:
                grads["x"] = base_grads["x"] + drop(change.transpose(low_grads["x"]))
            return grads

        return y, Pullback(backward, y, base_pullback.inputs, base_pullback.frozen)

    return wrong


def _rolled(step: int) -> Callable[[Array], Array]:
    def roll(x: Array) -> Array:
        xp, n = x.__array_namespace__(), x.shape[-2]
        return xp.take(x, xp.asarray((np.arange(n) - step) % n), axis=-2)

    return roll


def _without(index: int) -> InputChange:
    def drop(x: Array) -> Array:
        kept = np.ones(x.shape)
        kept[..., index, :] = 0.0
        return x * kept

    return InputChange(drop, drop)


LOW_RANK_INPUTS = {
    "were rolled forward by one token": InputChange(_rolled(1), _rolled(-1)),
    "were rolled back by one token": InputChange(_rolled(-1), _rolled(1)),
    "lacked its first token": _without(0),
    "lacked its last token": _without(-1),
}
