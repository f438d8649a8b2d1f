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

from .. import lora, ops

Config = dict[str, Any]
Wrap = Callable[[Any], Any]
AnswerFunction = Callable[..., dict[str, Any]]  # (arrays, config, definition = RIGHT) -> {output: array}


def scale(config: Config, sqrt: Callable[[Any], Any] = math.sqrt) -> Any:
    """s = alpha / r, or alpha / sqrt(r) with rsLoRA."""
    return lora.lora_scale(config["r"], config["alpha"], config["use_rslora"], sqrt)


class Definition(SimpleNamespace):
    """The ops under their own names; scale(config); low_rank(x, rank); sgd and adamw."""

    def wrapped(self, **wraps: Wrap) -> "Definition":
        """The same with some parts replaced: each wrap takes the part that is there and returns another."""
        changed = {name: _named_alike(wrap(getattr(self, name)), getattr(self, name)) for name, wrap in wraps.items()}
        return Definition(**{**vars(self), **changed})


def _named_alike(changed: Any, part: Any) -> Any:
    """Copy the part's name and signature onto its replacement. A part that did not change is returned untouched."""
    return changed if changed is part else update_wrapper(changed, part)


_OPS = {name: getattr(ops, name) for name in ops.__all__ if name != "Pullback"}

RIGHT = Definition(**_OPS, scale=scale, low_rank=lora.low_rank, sgd=lora.sgd, adamw=lora.adamw)
