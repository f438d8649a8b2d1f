"""The steps of a train_steps case, in any framework: its gradients and its optimiser are handed in."""

from collections.abc import Callable
from typing import Any

from ..case import Case

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
