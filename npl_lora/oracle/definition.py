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
from .low_rank import low_rank

Config = dict[str, Any]
Wrap = Callable[[Any], Any]


def scale(config: Config) -> float:
    """s = alpha / r, or alpha / sqrt(r) with rsLoRA."""
    r, alpha = config["r"], config["alpha"]
    return alpha / math.sqrt(r) if config["use_rslora"] else alpha / r


class Definition(SimpleNamespace):
    """The ops under their own names; scale(config); low_rank(x, rank); sgd and adamw."""

    def wrapped(self, **wraps: Wrap) -> "Definition":
        """The same with some parts replaced: each wrap takes the part that is there and returns another."""
        changed = {name: _named_like(getattr(self, name), wrap(getattr(self, name))) for name, wrap in wraps.items()}
        return Definition(**{**vars(self), **changed})


def _named_like(part: Any, changed: Any) -> Any:
    """changed, with part's name and signature; a wrap may also leave the part as it is."""
    return changed if changed is part else update_wrapper(changed, part)


_OPS = {name: getattr(ops, name) for name in ops.__all__ if name != "Pullback"}

RIGHT = Definition(**_OPS, scale=scale, low_rank=low_rank, sgd=training.sgd, adamw=training.adamw)
