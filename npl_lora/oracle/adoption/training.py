"""The steps of a train_steps case, in any framework: its gradients and its optimiser are handed in."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..case import Case, widen
from ..contracts import CONTRACTS

Gradients = list[Any]


def train_on(
    case: Case, loss_and_gradients: Callable[[Any, Any], tuple[Any, Gradients]], step: Callable[[Gradients], None]
) -> list[Any]:
    """The losses, each before its step. Micro-batches are accumulated as a training loop does it.

    loss_and_gradients(x, y): of the mean squared error. step(gradients): of the optimiser.
    """
    every, losses = case.config["accumulation"], []
    for start in range(0, len(case["X"]), every):
        window = [loss_and_gradients(case["X"][k], case["Y"][k]) for k in range(start, start + every)]
        losses.append(sum(loss / every for loss, _ in window))
        step([sum(g / every for g in gradients) for gradients in zip(*(own for _, own in window), strict=True)])
    return losses


def stay_within_float16(case: Case) -> bool:
    """Whether no number of these steps comes near float16's largest: with a scale of its own a layer may diverge.

    The largest on the way are the sums of squares under the losses; 16 leaves room for another order of summing. The
    other dtypes hold numbers up to 10^38.
    """
    if case.dtype != "float16":
        return True
    after = CONTRACTS["train_steps"].answer(widen(case), case.config)
    sizes = {"losses": case["Y"].size}
    reached = max(float(np.max(np.abs(t))) * sizes.get(name, 1) for name, t in after.items())
    return 16.0 * reached < float(np.finfo(np.float16).max)
