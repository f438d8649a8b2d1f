"""PEFT's own LoRA layers, and transformers' own attention, MLP and loss, as a subject.

The libraries compute everything: here their modules are built, given the case's numbers in the case's dtype, run
forward and backward, and their results read off. What is not theirs: the rotary tables (handed to transformers'
attention as its model does, from the protocol's formula in float64, rounded to the case's dtype), and the dropout
mask, which a module in the place of PEFT's dropout multiplies with.
"""

import sys
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, LoraModel, inject_adapter_in_model
from transformers import LlamaConfig
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP
from transformers.pytorch_utils import Conv1D

from ..case import Case
from .torch_tools import GivenMask, Outputs, leaf, run_steps, tensor

torch.set_num_threads(1)  # the cases are small: starting threads would take longer than the work

# PEFT refuses to adapt a layer where torchao is installed and older than it likes (torchtune needs one that is), even
# where nothing is to be done with torchao. None says that there is none.
sys.modules.setdefault("torchao", None)  # type: ignore[arg-type]

_ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}


class _Holder(torch.nn.Module):
    """A model with one layer, which PEFT can look for by name."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer


def lora_linear(case: Case) -> Outputs:
    """peft.tuners.lora.Linear on torch.nn.Linear."""
    layer = _linear(case)
    if "mask" in case:
        layer.lora_dropout["default"] = GivenMask(tensor(case["mask"]))
    x = leaf(case["x"])
    y = layer(x)
    y.backward(tensor(case["dy"]))
    return {"y": y, "dx": x.grad, "dA": _grad(layer.lora_A), "dB": _grad(layer.lora_B)}


def lora_merge(case: Case) -> Outputs:
    """merge_and_unload; and merge, then unmerge. On torch.nn.Linear or, with fan_in_fan_out, transformers' Conv1D."""
    holder = _mergeable(case)
    layer = holder.layer
    layer.merge()
    layer.unmerge()
    left = layer.base_layer.weight.detach().clone()
    return {"W_merged": _mergeable(case, unload=True).layer.weight, "W_unmerged": left}


def _mergeable(case: Case, unload: bool = False) -> Any:
    """A model of one adapted layer, with the case's numbers; the plain model again, LoRA merged into it, if unload."""
    fan_in_fan_out = case.config["fan_in_fan_out"]
    out, in_ = case["B"].shape[0], case["A"].shape[1]
    base = Conv1D(out, in_) if fan_in_fan_out else torch.nn.Linear(in_, out, bias=False)
    holder = _Holder(base).to(getattr(torch, case.dtype))
    model = LoraModel(holder, _config(case, ["layer"], fan_in_fan_out=fan_in_fan_out), "default")
    model.to(getattr(torch, case.dtype))
    layer = holder.layer
    _set(layer.base_layer.weight, case["W"])
    _set(layer.lora_A["default"].weight, case["A"])
    _set(layer.lora_B["default"].weight, case["B"])
    return model.merge_and_unload() if unload else holder


def lora_embedding(case: Case) -> Outputs:
    """peft.tuners.lora.Embedding on torch.nn.Embedding."""
    layer = _embedding(case)
    y = layer(tensor(case["ids"]))
    y.backward(tensor(case["dy"]))
    return {"y": y, "dA": layer.lora_embedding_A["default"].grad, "dB": layer.lora_embedding_B["default"].grad}


def dora_linear(case: Case) -> Outputs:
    """peft.tuners.lora.Linear with use_dora on torch.nn.Linear."""
    layer = _linear(case, use_dora=True)
    m = layer.lora_magnitude_vector["default"].weight
    _set(m, case["m"])
    x = leaf(case["x"])
    y = layer(x)
    y.backward(tensor(case["dy"]))
    return {"y": y, "dx": x.grad, "dA": _grad(layer.lora_A), "dB": _grad(layer.lora_B), "dm": m.grad}


def lora_conv2d(case: Case) -> Outputs:
    """peft.tuners.lora.Conv2d on torch.nn.Conv2d."""
    Co, Ci, *kernel = case["W"].shape
    how = {name: tuple(case.config[name]) for name in ("stride", "padding", "dilation")}
    layer = _adapt(torch.nn.Conv2d(Ci, Co, tuple(kernel), bias=False, **how), case)
    _set(layer.base_layer.weight, case["W"])
    _set(layer.lora_A["default"].weight, case["A"])
    _set(layer.lora_B["default"].weight, case["B"])
    x = leaf(case["x"])
    y = layer(x)
    y.backward(tensor(case["dy"]))
    return {"y": y, "dx": x.grad, "dA": _grad(layer.lora_A), "dB": _grad(layer.lora_B)}


def lora_init(case: Case) -> Outputs:
    """What PEFT puts into a new adapter of torch.nn.Linear or torch.nn.Embedding."""
    if case.config["layer"] == "embedding":
        V, D = case["W"].shape
        layer = _adapt(torch.nn.Embedding(V, D), case)
        return {"A": layer.lora_embedding_A["default"], "B": layer.lora_embedding_B["default"]}
    out, in_ = case["W"].shape
    init = "gaussian" if case.config["distribution"] == "gaussian" else True
    layer = _adapt(torch.nn.Linear(in_, out), case, init_lora_weights=init)
    return {"A": layer.lora_A["default"].weight, "B": layer.lora_B["default"].weight}


def lora_dropout(case: Case) -> Outputs:
    """PEFT's own dropout on torch.nn.Linear or torch.nn.Embedding, in train() and in eval()."""
    p = case.config["p"]
    linear = case.config["layer"] == "linear"
    layer = _linear(case, lora_dropout=p) if linear else _embedding(case, lora_dropout=p)
    given = leaf(case["x"]) if linear else tensor(case["ids"])
    layer.train()
    y = layer(given)
    y.backward(tensor(case["dy"]))
    again = layer(given)
    layer.eval()
    passes = {"y": y, "y_again": again, "y_eval": layer(given)}
    if linear:
        return {**passes, "dx": given.grad, "dA": _grad(layer.lora_A), "dB": _grad(layer.lora_B)}
    A, B = layer.lora_embedding_A["default"], layer.lora_embedding_B["default"]
    return {**passes, "dA": A.grad, "dB": B.grad}


def lora_attention(case: Case) -> Outputs:
    """transformers' LlamaAttention, as its model calls it, with PEFT on q, k, v and o.

    Theirs: the projections, heads, rotation, masks and torch's scaled_dot_product_attention, so what a query that sees
    no key gives is theirs too. Ours: the rotary tables, and is_causal off where the case is not causal.
    """
    config = _llama(case, hidden_size=case["x"].shape[2])
    block = LlamaAttention(config, layer_idx=0)
    block.is_causal = case.config["causal"]
    _adapt_all(block, case, {n: f"{n}_proj" for n in "qkvo"}, "W{}")
    x = leaf(case["x"])
    y, _ = block(x, position_embeddings=_rotary(case, config.head_dim), attention_mask=_mask(case, config, x))
    y.backward(tensor(case["dy"]))
    return {"y": y, "dx": x.grad, **_all_grads(block, {n: f"{n}_proj" for n in "qkvo"})}


def lora_mlp(case: Case) -> Outputs:
    """transformers' LlamaMLP with PEFT on gate, up and down."""
    F, C = case["W_gate"].shape
    block = LlamaMLP(
        _llama(case, hidden_size=C, intermediate_size=F, hidden_act=_ACTIVATIONS[case.config["activation"]])
    )
    names = {n: f"{n}_proj" for n in ("gate", "up", "down")}
    _adapt_all(block, case, names, "W_{}")
    x = leaf(case["x"])
    y = block(x)
    y.backward(tensor(case["dy"]))
    return {"y": y, "dx": x.grad, **_all_grads(block, names)}


def cross_entropy(case: Case) -> Outputs:
    """transformers' ForCausalLMLoss; over several micro-batches as its Trainer calls it, with the window's token
    count."""
    logits, labels = leaf(case["logits"]), tensor(case["labels"])
    ignore_index, parts = case.config["ignore_index"], case.config["accumulation"]
    how: dict[str, Any] = {"vocab_size": logits.shape[-1], "ignore_index": ignore_index}
    if parts > 1:
        how["num_items_in_batch"] = (labels[:, 1:] != ignore_index).sum()
    pairs = zip(logits.chunk(parts), labels.chunk(parts), strict=True)
    loss = sum(ForCausalLMLoss(part, given, **how) for part, given in pairs)
    loss.backward()
    return {"loss": loss, "dlogits": logits.grad}


def adapter_combine(case: Case) -> Outputs:
    """add_weighted_adapter on a model of one torch.nn.Linear, and the combined adapter's delta weight."""
    config, out, in_ = case.config, case["B_1"].shape[0], case["A_1"].shape[1]
    names = [str(i) for i in range(1, len(config["weights"]) + 1)]
    holder = _Holder(torch.nn.Linear(in_, out, bias=False))
    settings = zip(config["r"], config["alpha"], config["use_rslora"], strict=True)
    adapters = [
        LoraConfig(r=r, lora_alpha=alpha, use_rslora=use_rslora, target_modules=["layer"])
        for r, alpha, use_rslora in settings
    ]
    model = LoraModel(holder, dict(zip(names, adapters, strict=True)), names[0])
    for name in names[1:]:
        model.inject_adapter(holder, name)
    model.to(getattr(torch, case.dtype))
    layer: Any = holder.layer
    for name in names:
        _set(layer.lora_A[name].weight, case[f"A_{name}"])
        _set(layer.lora_B[name].weight, case[f"B_{name}"])
    how = {"combination_type": config["combination"], "svd_rank": config.get("r_new")}
    model.add_weighted_adapter(names, config["weights"], "combined", **how)
    return {"delta": layer.get_delta_weight("combined")}


def train_steps(case: Case) -> Outputs:
    """peft.tuners.lora.Linear trained by torch.optim."""
    layer = _linear(case)
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return {**run_steps(case, layer, [A, B]), "A_after": A, "B_after": B, "W_after": layer.base_layer.weight}


def _linear(case: Case, **more: Any) -> Any:
    out, in_ = case["W"].shape
    layer = _adapt(torch.nn.Linear(in_, out, bias="b" in case), case, **more)
    _set(layer.base_layer.weight, case["W"])
    if "b" in case:
        _set(layer.base_layer.bias, case["b"])
    _set(layer.lora_A["default"].weight, case["A"])
    _set(layer.lora_B["default"].weight, case["B"])
    return layer


def _embedding(case: Case, **more: Any) -> Any:
    V, D = case["E"].shape
    layer = _adapt(torch.nn.Embedding(V, D, padding_idx=case.config.get("padding_idx")), case, **more)
    _set(layer.base_layer.weight, case["E"])
    _set(layer.lora_embedding_A["default"], case["A"])
    _set(layer.lora_embedding_B["default"], case["B"])
    return layer


def _config(case: Case, targets: list[str], **more: Any) -> LoraConfig:
    config = case.config
    return LoraConfig(
        r=config["r"], lora_alpha=config["alpha"], use_rslora=config["use_rslora"], target_modules=targets, **more
    )


def _adapt(base: torch.nn.Module, case: Case, **more: Any) -> Any:
    """The layer that PEFT puts in the place of base, in the case's dtype."""
    holder = _Holder(base).to(getattr(torch, case.dtype))
    inject_adapter_in_model(_config(case, ["layer"], **more), holder)
    return holder.to(getattr(torch, case.dtype)).layer


def _adapt_all(block: Any, case: Case, names: dict[str, str], weight: str) -> None:
    inject_adapter_in_model(_config(case, list(names.values())), block)
    block.to(getattr(torch, case.dtype))
    for n, name in names.items():
        layer = getattr(block, name)
        _set(layer.base_layer.weight, case[weight.format(n)])
        _set(layer.lora_A["default"].weight, case[f"A_{n}"])
        _set(layer.lora_B["default"].weight, case[f"B_{n}"])


def _all_grads(block: Any, names: dict[str, str]) -> Outputs:
    grads: Outputs = {}
    for n, name in names.items():
        layer = getattr(block, name)
        grads |= {f"dA_{n}": _grad(layer.lora_A), f"dB_{n}": _grad(layer.lora_B)}
    return grads


def _grad(factors: Any) -> torch.Tensor | None:
    return factors["default"].weight.grad


def _set(parameter: Any, value: np.ndarray) -> None:
    with torch.no_grad():
        parameter.copy_(tensor(value))


def _llama(case: Case, **sizes: Any) -> LlamaConfig:
    if "n_heads" in case.config:
        sizes["num_attention_heads"] = case.config["n_heads"]
        sizes["num_key_value_heads"] = case.config["n_kv_heads"]
        sizes["head_dim"] = case["Wq"].shape[0] // case.config["n_heads"]
    else:
        sizes |= {"num_attention_heads": 1, "head_dim": 2}  # an MLP has no heads, but the configuration checks them
    config = LlamaConfig(attention_bias=False, mlp_bias=False, **sizes)
    config._attn_implementation = "sdpa"  # what from_pretrained chooses
    return config


def _rotary(case: Case, D: int) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, (1, T, D), each table twice side by side, as LlamaRotaryEmbedding gives them.

    Ours because LlamaRotaryEmbedding computes its angles in float32, whatever the model's dtype.
    """
    T, theta = case["x"].shape[1], case.config["rope_theta"]
    frequency = np.zeros(D)  # without rope: angle 0 everywhere, and D may be odd
    if theta is not None:
        frequency = np.tile(float(theta) ** (-2.0 * np.arange(D // 2) / D), 2)
    phi = np.arange(T)[None, :, None] * frequency
    dtype = case["x"].dtype
    return tensor(np.cos(phi).astype(dtype)), tensor(np.sin(phi).astype(dtype))


def _mask(case: Case, config: LlamaConfig, x: torch.Tensor) -> Any:
    """The mask that transformers' own models make of a padding mask."""
    padding = tensor(case["key_mask"]) if "key_mask" in case else None
    how: dict[str, Any] = {"config": config, "inputs_embeds": x, "attention_mask": padding}
    if not case.config["causal"]:
        return create_bidirectional_mask(**how)
    return create_causal_mask(**how, past_key_values=None)
