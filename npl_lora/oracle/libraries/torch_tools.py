"""What the subjects that run on torch share."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..case import Case

Outputs = dict[str, Any]


def tensor(array: np.ndarray) -> torch.Tensor:
    """The same numbers in the same dtype. (torch takes bfloat16 from NumPy as bits only.)"""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.uint16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def leaf(array: np.ndarray) -> torch.Tensor:
    """A tensor whose gradient is wanted."""
    return tensor(array).requires_grad_()


class GivenMask(torch.nn.Module):
    """In the place of a dropout module: multiplies with the mask of the case."""

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.mask


def run_steps(case: Case, layer: torch.nn.Module, trained: Sequence[Any]) -> Outputs:
    """The steps of a train_steps case with torch's optimisers; accumulation as a training loop does it."""
    config, X, Y = case.config, tensor(case["X"]), tensor(case["Y"])
    optimizer = _optimizer(config, trained)
    losses = []
    for start in range(0, X.shape[0], config["accumulation"]):
        optimizer.zero_grad()
        window = torch.zeros((), dtype=X.dtype)
        for k in range(start, start + config["accumulation"]):
            loss = torch.nn.functional.mse_loss(layer(X[k]), Y[k]) / config["accumulation"]
            loss.backward()
            window = window + loss.detach()
        losses.append(window)
        optimizer.step()
    return {"losses": torch.stack(losses)}


def _optimizer(config: dict[str, Any], trained: Sequence[Any]) -> torch.optim.Optimizer:
    how = {"lr": config["lr"], "weight_decay": config["weight_decay"]}
    if config["optimizer"] == "sgd":
        return torch.optim.SGD(trained, **how)
    return torch.optim.AdamW(trained, betas=tuple(config["betas"]), eps=config["eps"], **how)
