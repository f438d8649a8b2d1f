"""loralib, the original implementation (Hu et al. 2021), as a subject. It has no rsLoRA, attention or loss.

As in peft.py, the library computes everything; a dropout mask comes from a module that replaces its dropout.
"""

from typing import Any

import loralib
import torch

from ..case import Case
from .known import loralib as known
from .torch_tools import GivenMask, Outputs, assign, differentiate, differentiate_dropout, dtype_of, run_steps


def lora_layer(in_features: int, out_features: int, rank: int, alpha: float, dropout: float, bias: bool) -> Any:
    """A new loralib.Linear."""
    return loralib.Linear(in_features, out_features, r=rank, lora_alpha=alpha, lora_dropout=dropout, bias=bias)


def lora_linear(case: Case) -> Outputs:
    """loralib.Linear."""
    layer = _linear(case)
    if "mask" in case:
        layer.lora_dropout = GivenMask(case["mask"])
    return differentiate(layer, case, _factors(layer))


def lora_merge(case: Case) -> Outputs:
    """loralib.Linear, which merges in eval() and unmerges in train()."""
    layer = _linear(case)
    layer.eval()
    W_merged = layer.weight.detach().clone()
    layer.train()
    return {"W_merged": W_merged, "W_unmerged": layer.weight}


def lora_embedding(case: Case) -> Outputs:
    """loralib.Embedding."""
    config = case.config
    layer: Any = loralib.Embedding(
        *case["E"].shape, r=_rank(case), lora_alpha=config["alpha"], padding_idx=config["padding_idx"]
    )
    _fill(layer, case, W="E")
    return differentiate(layer, case, _factors(layer))


def lora_init(case: Case) -> Outputs:
    """What loralib.Linear and loralib.Embedding start from."""
    layer: torch.nn.Module
    if case.config["layer"] == "embedding":
        layer = loralib.Embedding(*case["W"].shape, r=case.config["r"])
    elif case.config["distribution"] == "kaiming_uniform":
        out, in_ = case["W"].shape
        layer = loralib.Linear(in_, out, r=case.config["r"])
    else:
        raise NotImplementedError(known.INIT.sentence)
    return _factors(layer.to(dtype_of(case)))


def lora_dropout(case: Case) -> Outputs:
    """loralib.Linear's own dropout; eval() merges, and drops nothing."""
    if case.config["layer"] == "embedding":
        raise NotImplementedError(known.DROPOUT.sentence)
    layer = _linear(case, lora_dropout=case.config["p"])
    return differentiate_dropout(layer, case, _factors(layer))


def train_steps(case: Case) -> Outputs:
    """loralib.Linear trained by torch.optim."""
    layer = _linear(case)
    A, B = layer.lora_A, layer.lora_B
    return {**run_steps(case, layer, [A, B]), "A_after": A, "B_after": B, "W_after": layer.weight}


def _rank(case: Case) -> int:
    if case.config["use_rslora"]:
        raise NotImplementedError(known.RSLORA.sentence)
    return case.config["r"]


def _linear(case: Case, **options: Any) -> Any:
    out, in_ = case["B"].shape[0], case["A"].shape[1]
    options |= {"lora_alpha": case.config["alpha"], "fan_in_fan_out": case.config.get("fan_in_fan_out", False)}
    layer: Any = loralib.Linear(in_, out, r=_rank(case), bias="b" in case, **options)
    _fill(layer, case)
    if "b" in case:
        assign(layer.bias, case["b"])
    return layer


def _fill(layer: Any, case: Case, W: str = "W") -> None:
    """Copy the case's weight and factors into a layer, in the case's dtype."""
    layer.to(dtype_of(case))
    assign(layer.weight, case[W])
    assign(layer.lora_A, case["A"])
    assign(layer.lora_B, case["B"])


def _factors(layer: Any) -> Outputs:
    return {"A": layer.lora_A, "B": layer.lora_B}
