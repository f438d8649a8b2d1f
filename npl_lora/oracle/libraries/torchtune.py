"""torchtune's own LoRA and DoRA layers, attention, MLP and loss, as a subject. It has no rsLoRA.

As in peft.py, the library computes everything; the dropout mask comes in through a module in its dropout's place.
"""

from typing import Any

import numpy as np
import torch
from torchtune.models.qwen2 import Qwen2RotaryPositionalEmbeddings
from torchtune.modules import FeedForward, MultiHeadAttention
from torchtune.modules.loss import CEWithChunkedOutputLoss
from torchtune.modules.peft import DoRALinear, LoRALinear, get_merged_lora_ckpt
from torchtune.training import scale_grads

from ..case import Case
from .torch_tools import GivenMask, Outputs, leaf, run_steps, tensor

torch.set_num_threads(1)  # the cases are small: starting threads would take longer than the work

_ACTIVATIONS = {"silu": torch.nn.SiLU(), "gelu": torch.nn.GELU(), "gelu_tanh": torch.nn.GELU(approximate="tanh")}


def lora_linear(case: Case) -> Outputs:
    """torchtune's LoRALinear."""
    layer = _linear(LoRALinear, case)
    if "mask" in case:
        layer.dropout = GivenMask(tensor(case["mask"]))
    return _run(layer, case, {"A": layer.lora_a.weight, "B": layer.lora_b.weight})


def dora_linear(case: Case) -> Outputs:
    """torchtune's DoRALinear."""
    layer = _linear(DoRALinear, case)
    _set(layer.magnitude, case["m"])
    return _run(layer, case, {"A": layer.lora_a.weight, "B": layer.lora_b.weight, "m": layer.magnitude})


def lora_merge(case: Case) -> Outputs:
    """get_merged_lora_ckpt on a copy of the state dict. The layer stays as it is: that is torchtune's way back."""
    if case.config["fan_in_fan_out"]:
        raise NotImplementedError("torchtune has no weights stored (in, out)")
    layer = torch.nn.Sequential(_linear(LoRALinear, case))
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    merged = get_merged_lora_ckpt(state, rank=case.config["r"], alpha=case.config["alpha"])
    return {"W_merged": merged["0.weight"], "W_unmerged": layer[0].weight}


def lora_attention(case: Case) -> Outputs:
    """torchtune's MultiHeadAttention on LoRALinear, with the rotary embedding of its Qwen2, which turns halves as the
    protocol does. (Its other models turn neighbours, and permute the weights that they load.)"""
    config, (_, T, C) = case.config, case["x"].shape
    D = case["Wq"].shape[0] // config["n_heads"]
    theta, dtype = config["rope_theta"], getattr(torch, case.dtype)
    projections = {n: _linear(LoRALinear, case, f"_{n}", f"W{n}") for n in "qkvo"}
    block = MultiHeadAttention(
        embed_dim=C,
        num_heads=config["n_heads"],
        num_kv_heads=config["n_kv_heads"],
        head_dim=D,
        **{f"{'output' if n == 'o' else n}_proj": projection for n, projection in projections.items()},
        pos_embeddings=None if theta is None else Qwen2RotaryPositionalEmbeddings(D, max_seq_len=T, base=theta),
        is_causal=config["causal"],
    ).to(dtype)
    mask = None
    if "key_mask" in case:
        mask = tensor(case["key_mask"])[:, None, :].expand(-1, T, T)
        mask = mask.tril() if config["causal"] else mask
    return _run(lambda x: block(x, x, mask=mask), case, _factors(projections))


def lora_mlp(case: Case) -> Outputs:
    """torchtune's FeedForward on LoRALinear, as its LoRA builders make it."""
    projections = {n: _linear(LoRALinear, case, f"_{n}", f"W_{n}") for n in ("gate", "up", "down")}
    block = FeedForward(
        **{f"{n}_proj": projection for n, projection in projections.items()},
        activation=_ACTIVATIONS[case.config["activation"]],
    )
    return _run(block, case, _factors(projections))


def cross_entropy(case: Case) -> Outputs:
    """CEWithChunkedOutputLoss, as its LoRA recipe calls it: labels shifted, each micro-batch's loss times its tokens,
    and the gradients divided by the window's tokens at the end."""
    ignore_index, parts = case.config["ignore_index"], case.config["accumulation"]
    loss_of = CEWithChunkedOutputLoss(ignore_index=ignore_index)
    model = torch.nn.Module()
    model.logits = torch.nn.Parameter(tensor(case["logits"]))
    labels = torch.nn.functional.pad(tensor(case["labels"])[:, 1:], (0, 1), value=ignore_index)
    running, tokens = torch.zeros(()), torch.zeros((), dtype=torch.int64)
    for logits, targets in zip(model.logits.chunk(parts), labels.chunk(parts), strict=True):
        count = (targets != ignore_index).sum()
        loss = loss_of(list(logits.chunk(loss_of.num_output_chunks, dim=1)), targets) * count
        loss.backward()
        running, tokens = running + loss.detach(), tokens + count
    scale_grads(model, 1 / tokens)
    return {"loss": running / tokens, "dlogits": model.logits.grad}


def train_steps(case: Case) -> Outputs:
    """torchtune's LoRALinear trained by torch.optim, which its recipes use."""
    layer = _linear(LoRALinear, case)
    A, B = layer.lora_a.weight, layer.lora_b.weight
    return {**run_steps(case, layer, [A, B]), "A_after": A, "B_after": B, "W_after": layer.weight}


def _linear(kind: Any, case: Case, n: str = "", W: str = "W") -> Any:
    if case.config["use_rslora"]:
        raise NotImplementedError("torchtune has no rsLoRA")
    out, in_ = case[W].shape
    layer = kind(in_, out, rank=case.config["r"], alpha=case.config["alpha"], use_bias="b" in case)
    layer.to(getattr(torch, case.dtype))
    _set(layer.weight, case[W])
    _set(layer.lora_a.weight, case[f"A{n}"])
    _set(layer.lora_b.weight, case[f"B{n}"])
    if "b" in case:
        _set(layer.bias, case["b"])
    return layer


def _factors(projections: dict[str, Any]) -> dict[str, torch.nn.Parameter]:
    factors = {f"A_{n}": layer.lora_a.weight for n, layer in projections.items()}
    return factors | {f"B_{n}": layer.lora_b.weight for n, layer in projections.items()}


def _run(block: Any, case: Case, trained: dict[str, torch.nn.Parameter]) -> Outputs:
    x = leaf(case["x"])
    y = block(x)
    y.backward(tensor(case["dy"]))
    return {"y": y, "dx": x.grad, **{f"d{name}": parameter.grad for name, parameter in trained.items()}}


def _set(parameter: Any, value: np.ndarray) -> None:
    with torch.no_grad():
        parameter.copy_(tensor(value))
