"""torchtune's own LoRA and DoRA layers, attention, MLP and loss, as a subject. It has no rsLoRA.

As in peft.py, the library computes everything; a dropout mask comes from a module that replaces its dropout.
"""

from typing import Any

import torch
from torchtune.models.qwen2 import Qwen2RotaryPositionalEmbeddings
from torchtune.modules import FeedForward, MultiHeadAttention, RMSNorm, RotaryPositionalEmbeddings
from torchtune.modules.loss import CEWithChunkedOutputLoss
from torchtune.modules.peft import DoRALinear, LoRALinear, get_merged_lora_ckpt
from torchtune.training import scale_grads

from ..case import Case
from .known import torchtune as known
from .torch_tools import GivenMask, Outputs, assign, differentiate, dtype_of, micro_batches, run_steps, tensor

_ACTIVATIONS = {"silu": torch.nn.SiLU(), "gelu": torch.nn.GELU(), "gelu_tanh": torch.nn.GELU(approximate="tanh")}


lora_layer = LoRALinear  # its constructor takes what a layer's does


def lora_linear(case: Case) -> Outputs:
    """torchtune's LoRALinear."""
    layer = _linear(LoRALinear, case)
    if "mask" in case:
        layer.dropout = GivenMask(case["mask"])
    return differentiate(layer, case, _factors(layer))


def dora_linear(case: Case) -> Outputs:
    """torchtune's DoRALinear."""
    layer = _linear(DoRALinear, case)
    assign(layer.magnitude, case["m"])
    return differentiate(layer, case, {**_factors(layer), "m": layer.magnitude})


def lora_merge(case: Case) -> Outputs:
    """get_merged_lora_ckpt on a copy of the state dict. It leaves the layer unmerged, which is torchtune's unmerge."""
    if case.config["fan_in_fan_out"]:
        raise NotImplementedError(known.STORED.sentence)
    layer = torch.nn.Sequential(_linear(LoRALinear, case))
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    merged = get_merged_lora_ckpt(state, rank=case.config["r"], alpha=case.config["alpha"])
    return {"W_merged": merged["0.weight"], "W_unmerged": layer[0].weight}


def lora_attention(case: Case) -> Outputs:
    """torchtune's MultiHeadAttention on LoRALinear, with the rotary embedding of its Qwen2, which rotates halves as
    the protocol does. (Its other models rotate neighbours, and permute the weights that they load.)"""
    config, (_, T, C) = case.config, case["x"].shape
    D = case["Wq"].shape[0] // config["n_heads"]
    theta = config["rope_theta"]
    projections = {n: _linear(LoRALinear, case, f"_{n}", f"W{n}") for n in "qkvo"}
    block = MultiHeadAttention(
        embed_dim=C,
        num_heads=config["n_heads"],
        num_kv_heads=config["n_kv_heads"],
        head_dim=D,
        **{f"{'output' if n == 'o' else n}_proj": projection for n, projection in projections.items()},
        pos_embeddings=None if theta is None else Qwen2RotaryPositionalEmbeddings(D, max_seq_len=T, base=theta),
        is_causal=config["causal"],
    ).to(dtype_of(case))
    mask = None
    if "key_mask" in case:
        mask = tensor(case["key_mask"])[:, None, :].expand(-1, T, T)
        mask = mask.tril() if config["causal"] else mask
    return differentiate(lambda x: block(x, x, mask=mask), case, _all_factors(projections))


def lora_mlp(case: Case) -> Outputs:
    """torchtune's FeedForward on LoRALinear, as its LoRA builders make it."""
    projections = {n: _linear(LoRALinear, case, f"_{n}", f"W_{n}") for n in ("gate", "up", "down")}
    block = FeedForward(
        **{f"{n}_proj": projection for n, projection in projections.items()},
        activation=_ACTIVATIONS[case.config["activation"]],
    )
    return differentiate(block, case, _all_factors(projections))


def cross_entropy(case: Case) -> Outputs:
    """CEWithChunkedOutputLoss, as its LoRA recipe calls it: labels shifted, each micro-batch's loss multiplied by its
    tokens, and the gradients divided by the window's tokens at the end."""
    ignore_index = case.config["ignore_index"]
    loss_of = CEWithChunkedOutputLoss(ignore_index=ignore_index)
    model = torch.nn.Module()
    model.logits = torch.nn.Parameter(tensor(case["logits"]))
    labels = torch.nn.functional.pad(tensor(case["labels"])[:, 1:], (0, 1), value=ignore_index)
    running, tokens = torch.zeros(()), torch.zeros((), dtype=torch.int64)
    for logits, targets in micro_batches(case, model.logits, labels):
        count = (targets != ignore_index).sum()
        loss = loss_of(list(logits.chunk(loss_of.num_output_chunks, dim=1)), targets) * count
        loss.backward()
        running, tokens = running + loss.detach(), tokens + count
    scale_grads(model, 1 / tokens)
    return {"loss": running / tokens, "dlogits": model.logits.grad}


def rms_norm(case: Case) -> Outputs:
    """torchtune's RMSNorm."""
    norm = RMSNorm(case["w"].size, eps=case.config["eps"]).to(dtype_of(case))
    assign(norm.scale, case["w"])
    return differentiate(norm, case, {"w": norm.scale})


def rope(case: Case) -> Outputs:
    """The rotary embedding of its Llamas, which rotates neighbours, or that of its Qwen2, which rotates halves."""
    kind = RotaryPositionalEmbeddings if case.config["interleaved"] else Qwen2RotaryPositionalEmbeddings
    T, D = case["x"].shape[-2:]
    table = kind(D, max_seq_len=int(case["positions"].max()) + 1, base=case.config["theta"])
    positions = tensor(case["positions"])[None]

    def rotate(x: torch.Tensor) -> torch.Tensor:
        heads = x.reshape(1, -1, T, D).transpose(1, 2)
        return table(heads, input_pos=positions).transpose(1, 2).reshape(x.shape)

    return differentiate(rotate, case, {})


def train_steps(case: Case) -> Outputs:
    """torchtune's LoRALinear trained by torch.optim, which its recipes use."""
    layer = _linear(LoRALinear, case)
    A, B = layer.lora_a.weight, layer.lora_b.weight
    return {**run_steps(case, layer, [A, B]), "A_after": A, "B_after": B, "W_after": layer.weight}


def _linear(kind: Any, case: Case, n: str = "", W: str = "W") -> Any:
    if case.config["use_rslora"]:
        raise NotImplementedError(known.RSLORA.sentence)
    out, in_ = case[W].shape
    layer = kind(in_, out, rank=case.config["r"], alpha=case.config["alpha"], use_bias="b" in case)
    layer.to(dtype_of(case))
    assign(layer.weight, case[W])
    for name, factor in _factors(layer, n).items():
        assign(factor, case[name])
    if "b" in case:
        assign(layer.bias, case["b"])
    return layer


def _factors(layer: Any, n: str = "") -> Outputs:
    """{"A": its parameter, "B": its parameter}; n comes behind both names."""
    return {f"A{n}": layer.lora_a.weight, f"B{n}": layer.lora_b.weight}


def _all_factors(projections: dict[str, Any]) -> Outputs:
    return {name: factor for n, layer in projections.items() for name, factor in _factors(layer, f"_{n}").items()}
