"""What the contracts' right answers are written in: the ops, the scale and the optimisers, as one object.

A contract never calls an op by import, but takes it from a Definition. So a fault is a Definition with one part made
wrong, and goes through every contract that uses that part: a lora_linear whose dB lacks s is wrong in the same way
inside attention, the MLP and training.
"""

import math
from collections.abc import Callable
from functools import update_wrapper
from types import SimpleNamespace
from typing import Any

from .. import ops, training

Config = dict[str, Any]
Wrap = Callable[[Any], Any]


def scale(config: Config) -> float:
    """s = alpha / r, or alpha / sqrt(r) with rsLoRA."""
    r, alpha = config["r"], config["alpha"]
    return alpha / math.sqrt(r) if config["use_rslora"] else alpha / r


class Definition(SimpleNamespace):
    """The ops under their own names; scale(config); sgd and adamw."""

    def wrapped(self, **wraps: Wrap) -> "Definition":
        """The same with some parts replaced: each wrap takes the part that is there and returns another."""
        parts = {name: getattr(self, name) for name in wraps if hasattr(self, name)}
        changed = {name: update_wrapper(wraps[name](part), part) for name, part in parts.items()}
        return Definition(**{**vars(self), **changed})


_OPS = {name: getattr(ops, name) for name in ops.__all__ if name != "Pullback"}

RIGHT = Definition(**_OPS, scale=scale, sgd=training.sgd, adamw=training.adamw)
