"""What the glue of the torch libraries shares: tensors of a case, a forward and backward, dropout, training steps."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..case import Case

torch.set_num_threads(1)  # the cases are small: starting threads would take longer than the work

Outputs = dict[str, Any]


def dtype_of(case: Case) -> torch.dtype:
    """The case's dtype as torch's."""
    return getattr(torch, case.dtype)


def tensor(array: np.ndarray) -> torch.Tensor:
    """The same numbers in the same dtype. (torch takes bfloat16 from NumPy as bits only.)"""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.uint16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def leaf(array: np.ndarray) -> torch.Tensor:
    """A tensor that autograd computes a gradient for."""
    return tensor(array).requires_grad_()


def assign(parameter: Any, array: np.ndarray) -> None:
    """Copy a case's numbers into a parameter."""
    with torch.no_grad():
        parameter.copy_(tensor(array))


class GivenMask(torch.nn.Module):
    """Replaces a dropout module: multiplies by a mask of the case."""

    def __init__(self, mask: np.ndarray) -> None:
        super().__init__()
        self.mask = tensor(mask)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.mask


def differentiate(call: Callable[[torch.Tensor], torch.Tensor], case: Case, trained: Mapping[str, Any]) -> Outputs:
    """y = call(x), or call(ids); dx, unless the inputs are ids; and a gradient d<name> for each trained parameter."""
    x = _input(case)
    y = call(x)
    y.backward(tensor(case["dy"]))
    dx = {"dx": x.grad} if x.requires_grad else {}
    return {"y": y, **dx, **{f"d{name}": parameter.grad for name, parameter in trained.items()}}


def differentiate_dropout(layer: Any, case: Case, trained: Mapping[str, Any]) -> Outputs:
    """The library's own dropout: forward and backward in train(), a second forward, and a forward in eval()."""
    layer.train()
    outputs = differentiate(layer, case, trained)
    y_again = layer(_input(case))
    layer.eval()
    return {**outputs, "y_again": y_again, "y_eval": layer(_input(case))}


def _input(case: Case) -> torch.Tensor:
    return leaf(case["x"]) if "x" in case else tensor(case["ids"])


def micro_batches(case: Case, logits: torch.Tensor, labels: torch.Tensor) -> Iterator[tuple[torch.Tensor, Any]]:
    """The logits and labels of each micro-batch of a cross_entropy case."""
    n = case.config["accumulation"]
    return zip(logits.chunk(n), labels.chunk(n), strict=True)


def run_steps(case: Case, layer: Callable[[torch.Tensor], torch.Tensor], trained: Sequence[Any]) -> Outputs:
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
    common = {"lr": config["lr"], "weight_decay": config["weight_decay"]}
    if config["optimizer"] == "sgd":
        return torch.optim.SGD(trained, **common)
    return torch.optim.AdamW(trained, betas=tuple(config["betas"]), eps=config["eps"], **common)
