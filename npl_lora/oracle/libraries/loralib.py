"""loralib, the original implementation (Hu et al. 2021), as a subject. It has no rsLoRA and no attention or loss of
its own.

As in peft.py, the library computes everything; the dropout mask comes in through a module in its dropout's place.
"""

from typing import Any

import loralib
import numpy as np
import torch

from ..case import Case
from .torch_tools import GivenMask, Outputs, leaf, run_steps, tensor

torch.set_num_threads(1)  # the cases are small: starting threads would take longer than the work


def lora_linear(case: Case) -> Outputs:
    """loralib.Linear."""
    layer = _linear(case)
    if "mask" in case:
        layer.lora_dropout = GivenMask(tensor(case["mask"]))
    x = leaf(case["x"])
    y = layer(x)
    y.backward(tensor(case["dy"]))
    return {"y": y, "dx": x.grad, "dA": layer.lora_A.grad, "dB": layer.lora_B.grad}


def lora_merge(case: Case) -> Outputs:
    """loralib.Linear, which merges in eval() and takes it back in train()."""
    layer = _linear(case)
    layer.eval()
    W_merged = layer.weight.detach().clone()
    layer.train()
    return {"W_merged": W_merged, "W_unmerged": layer.weight}


def lora_embedding(case: Case) -> Outputs:
    """loralib.Embedding."""
    V, D = case["E"].shape
    layer = loralib.Embedding(
        V, D, r=_rank(case), lora_alpha=case.config["alpha"], padding_idx=case.config["padding_idx"]
    )
    layer = layer.to(getattr(torch, case.dtype))
    _set(layer.weight, case["E"])
    _set(layer.lora_A, case["A"])
    _set(layer.lora_B, case["B"])
    y = layer(tensor(case["ids"]))
    y.backward(tensor(case["dy"]))
    return {"y": y, "dA": layer.lora_A.grad, "dB": layer.lora_B.grad}


def lora_init(case: Case) -> Outputs:
    """What loralib.Linear and loralib.Embedding begin with."""
    if case.config["layer"] == "embedding":
        V, D = case["W"].shape
        layer = loralib.Embedding(V, D, r=case.config["r"])
    elif case.config["distribution"] == "kaiming_uniform":
        out, in_ = case["W"].shape
        layer = loralib.Linear(in_, out, r=case.config["r"])
    else:
        raise NotImplementedError("loralib begins with Kaiming's uniform distribution")
    layer = layer.to(getattr(torch, case.dtype))
    return {"A": layer.lora_A, "B": layer.lora_B}


def lora_dropout(case: Case) -> Outputs:
    """loralib.Linear's own dropout; eval() merges, and has none."""
    if case.config["layer"] == "embedding":
        raise NotImplementedError("loralib.Embedding has no dropout")
    layer = _linear(case, lora_dropout=case.config["p"])
    x = leaf(case["x"])
    layer.train()
    y = layer(x)
    y.backward(tensor(case["dy"]))
    again = layer(x)
    layer.eval()
    grads = {"dx": x.grad, "dA": layer.lora_A.grad, "dB": layer.lora_B.grad}
    return {"y": y, "y_again": again, "y_eval": layer(x), **grads}


def train_steps(case: Case) -> Outputs:
    """loralib.Linear trained by torch.optim."""
    layer = _linear(case)
    trained = [layer.lora_A, layer.lora_B]
    after = {"A_after": layer.lora_A, "B_after": layer.lora_B, "W_after": layer.weight}
    return {**run_steps(case, layer, trained), **after}


def _rank(case: Case) -> int:
    if case.config["use_rslora"]:
        raise NotImplementedError("loralib has no rsLoRA")
    return case.config["r"]


def _linear(case: Case, **more: Any) -> Any:
    out, in_ = case["B"].shape[0], case["A"].shape[1]
    how = {**more, "lora_alpha": case.config["alpha"], "fan_in_fan_out": case.config.get("fan_in_fan_out", False)}
    layer = loralib.Linear(in_, out, r=_rank(case), bias="b" in case, **how).to(getattr(torch, case.dtype))
    _set(layer.weight, case["W"])
    _set(layer.lora_A, case["A"])
    _set(layer.lora_B, case["B"])
    if "b" in case:
        _set(layer.bias, case["b"])
    return layer


def _set(parameter: Any, value: np.ndarray) -> None:
    with torch.no_grad():
        parameter.copy_(tensor(value))
