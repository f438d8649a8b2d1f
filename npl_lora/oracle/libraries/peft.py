"""PEFT's own LoRA layers, and transformers' own attention, MLP, norm, rope and loss, as a subject.

The libraries compute everything. This file builds their modules, copies the case's numbers into them in the case's
dtype, runs them forward and backward, and reads off the results. Two things are not theirs. The rotary tables of
lora_attention come from the protocol's formula, computed in float64 and rounded to the case's dtype; transformers'
attention takes them as an argument, as its model passes them. A dropout mask comes from a module that replaces PEFT's
dropout.
"""

import sys
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, LoraModel, inject_adapter_in_model
from transformers import LlamaConfig
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaMLP,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)
from transformers.pytorch_utils import Conv1D

from ..case import Case
from .known import peft as known
from .torch_tools import (
    GivenMask,
    Outputs,
    assign,
    differentiate,
    differentiate_dropout,
    dtype_of,
    leaf,
    micro_batches,
    run_steps,
    tensor,
)

# PEFT refuses to adapt any layer where an old torchao is installed, and torchtune needs an old one. None hides torchao.
sys.modules.setdefault("torchao", None)  # type: ignore[arg-type]

_ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}


class _Holder(torch.nn.Module):
    """A model with one layer, which PEFT can find by name."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer


def lora_layer(in_features: int, out_features: int, rank: int, alpha: float, dropout: float, bias: bool) -> Any:
    """A new peft.tuners.lora.Linear, which more adapters can be added to."""
    holder = _Holder(torch.nn.Linear(in_features, out_features, bias=bias))
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=["layer"])
    inject_adapter_in_model(config, holder)
    layer: Any = holder.layer
    layer.add_adapter = lambda name: inject_adapter_in_model(config, holder, adapter_name=name)
    return layer


def lora_linear(case: Case) -> Outputs:
    """peft.tuners.lora.Linear on torch.nn.Linear."""
    layer = _linear(case)
    if "mask" in case:
        layer.lora_dropout["default"] = GivenMask(case["mask"])
    return differentiate(layer, case, _factors(layer))


def lora_merge(case: Case) -> Outputs:
    """merge_and_unload; and merge, then unmerge. On torch.nn.Linear or, with fan_in_fan_out, transformers' Conv1D."""
    W_merged = _lora_model(case).merge_and_unload().layer.weight
    layer: Any = _lora_model(case).model.layer
    layer.merge()
    layer.unmerge()
    return {"W_merged": W_merged, "W_unmerged": layer.base_layer.weight}


def _lora_model(case: Case) -> Any:
    """A LoraModel of one adapted layer, with the case's numbers."""
    fan_in_fan_out = case.config["fan_in_fan_out"]
    out, in_ = case["B"].shape[0], case["A"].shape[1]
    base = Conv1D(out, in_) if fan_in_fan_out else torch.nn.Linear(in_, out, bias=False)
    holder = _Holder(base).to(dtype_of(case))
    model = LoraModel(holder, _config(case, ["layer"], fan_in_fan_out=fan_in_fan_out), "default")
    model.to(dtype_of(case))
    _fill(holder.layer, case)
    return model


def lora_embedding(case: Case) -> Outputs:
    """peft.tuners.lora.Embedding on torch.nn.Embedding."""
    layer = _embedding(case)
    return differentiate(layer, case, _factors(layer))


def lora_scaled_embedding(case: Case) -> Outputs:
    """peft.tuners.lora.Embedding on transformers' Gemma3TextScaledWordEmbedding."""
    V, D = case["E"].shape
    base = Gemma3TextScaledWordEmbedding(V, D, case.config["padding_idx"], case.config["embed_scale"])
    layer = _adapt(base, case)
    _fill(layer, case, W="E")
    return differentiate(layer, case, _factors(layer))


def dora_linear(case: Case) -> Outputs:
    """peft.tuners.lora.Linear with use_dora on torch.nn.Linear."""
    layer = _linear(case, use_dora=True)
    m = layer.lora_magnitude_vector["default"].weight
    assign(m, case["m"])
    return differentiate(layer, case, {**_factors(layer), "m": m})


def lora_conv2d(case: Case) -> Outputs:
    """peft.tuners.lora.Conv2d on torch.nn.Conv2d."""
    Co, Ci, *kernel = case["W"].shape
    places = {name: tuple(case.config[name]) for name in ("stride", "padding", "dilation")}
    layer = _adapt(torch.nn.Conv2d(Ci, Co, tuple(kernel), bias=False, **places), case)
    _fill(layer, case)
    return differentiate(layer, case, _factors(layer))


def lora_init(case: Case) -> Outputs:
    """What PEFT puts into a new adapter of torch.nn.Linear or torch.nn.Embedding."""
    if case.config["layer"] == "embedding":
        return _factors(_adapt(torch.nn.Embedding(*case["W"].shape), case))
    out, in_ = case["W"].shape
    init = "gaussian" if case.config["distribution"] == "gaussian" else True
    return _factors(_adapt(torch.nn.Linear(in_, out), case, init_lora_weights=init))


def lora_dropout(case: Case) -> Outputs:
    """PEFT's own dropout on torch.nn.Linear or torch.nn.Embedding, in train() and in eval()."""
    build = _linear if case.config["layer"] == "linear" else _embedding
    layer = build(case, lora_dropout=case.config["p"])
    return differentiate_dropout(layer, case, _factors(layer))


def lora_attention(case: Case) -> Outputs:
    """transformers' LlamaAttention, as its model calls it, with PEFT on q, k, v and o.

    Theirs: the projections, heads, rotation, masks and torch's scaled_dot_product_attention, and so the answer of a
    query that sees no key. Ours: the rotary tables, and is_causal switched off where the case is not causal.
    """
    config = _llama(case, hidden_size=case["x"].shape[2])
    block = LlamaAttention(config, layer_idx=0)
    block.is_causal = case.config["causal"]
    trained = _adapt_projections(block, case, tuple("qkvo"), "W{}")
    rotary = _rotary(case, config.head_dim)

    def attend(x: torch.Tensor) -> torch.Tensor:
        return block(x, position_embeddings=rotary, attention_mask=_mask(case, config, x))[0]

    return differentiate(attend, case, trained)


def lora_mlp(case: Case) -> Outputs:
    """transformers' LlamaMLP with PEFT on gate, up and down."""
    F, C = case["W_gate"].shape
    block = LlamaMLP(
        _llama(case, hidden_size=C, intermediate_size=F, hidden_act=_ACTIVATIONS[case.config["activation"]])
    )
    return differentiate(block, case, _adapt_projections(block, case, ("gate", "up", "down"), "W_{}"))


def cross_entropy(case: Case) -> Outputs:
    """transformers' ForCausalLMLoss. Over several micro-batches as its Trainer calls it, with the window's token
    count."""
    logits, labels = leaf(case["logits"]), tensor(case["labels"])
    ignore_index = case.config["ignore_index"]
    settings: dict[str, Any] = {"vocab_size": logits.shape[-1], "ignore_index": ignore_index}
    if case.config["accumulation"] > 1:
        settings["num_items_in_batch"] = (labels[:, 1:] != ignore_index).sum()
    loss = sum(ForCausalLMLoss(*batch, **settings) for batch in micro_batches(case, logits, labels))
    loss.backward()
    return {"loss": loss, "dlogits": logits.grad}


def lora_attention_projections(case: Case) -> Outputs:
    """The same with LlamaAttention's biases, and PEFT's DoRA, or a mask in the place of its dropout, on each."""
    return lora_attention(case)


def lora_mlp_projections(case: Case) -> Outputs:
    """The same with LlamaMLP's biases, and PEFT's DoRA, or a mask in the place of its dropout, on each."""
    return lora_mlp(case)


def rms_norm(case: Case) -> Outputs:
    """transformers' LlamaRMSNorm."""
    norm = LlamaRMSNorm(case["w"].size, eps=case.config["eps"]).to(dtype_of(case))
    assign(norm.weight, case["w"])
    return differentiate(norm, case, {"w": norm.weight})


def rope(case: Case) -> Outputs:
    """transformers' LlamaRotaryEmbedding, whose tables its apply_rotary_pos_emb takes."""
    if case.config["interleaved"]:
        raise NotImplementedError(known.HALVES.sentence)
    D, theta = case["x"].shape[-1], case.config["theta"]
    config = LlamaConfig(hidden_size=D, num_attention_heads=1, head_dim=D, rope_parameters=_plain_rope(theta))
    table = LlamaRotaryEmbedding(config)

    def rotate(x: torch.Tensor) -> torch.Tensor:
        cos, sin = table(x, tensor(case["positions"])[None])
        heads = x.reshape(1, -1, *x.shape[-2:])
        return apply_rotary_pos_emb(heads, heads, cos, sin)[0].reshape(x.shape)

    return differentiate(rotate, case, {})


def _plain_rope(theta: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta}


def adapter_combine(case: Case) -> Outputs:
    """add_weighted_adapter on a model of one torch.nn.Linear, and the combined adapter's delta weight."""
    config, out, in_ = case.config, case["B_1"].shape[0], case["A_1"].shape[1]
    names = [str(i) for i in range(1, len(config["weights"]) + 1)]
    model, layer = _model_of_several(case, names, torch.nn.Linear(in_, out, bias=False))
    for name in names:
        assign(layer.lora_A[name].weight, case[f"A_{name}"])
        assign(layer.lora_B[name].weight, case[f"B_{name}"])
    combination = {"combination_type": config["combination"], "svd_rank": config.get("r_new")}
    model.add_weighted_adapter(names, config["weights"], "combined", **combination)
    return {"delta": layer.get_delta_weight("combined")}


def lora_batched(case: Case) -> Outputs:
    """peft.tuners.lora.Linear with several adapters, in a mixed batch: adapter_names has one for each row.

    The factors have no padding here, so zeros are added to their gradients in its place.
    """
    out, in_ = case["W"].shape
    names = [str(k) for k in range(len(case.config["r"]))]
    _, layer = _model_of_several(case, names, torch.nn.Linear(in_, out, bias="b" in case))
    assign(layer.base_layer.weight, case["W"])
    if "b" in case:
        assign(layer.base_layer.bias, case["b"])
    for name, A, B, r in zip(names, case["A"], case["B"], case.config["r"], strict=True):
        assign(layer.lora_A[name].weight.requires_grad_(), A[:r])  # PEFT trains the active adapter alone
        assign(layer.lora_B[name].weight.requires_grad_(), B[:, :r])
    adapter_names = [names[k] if k >= 0 else "__base__" for k in case["ids"]]
    outputs = differentiate(lambda x: layer(x, adapter_names=adapter_names), case, {})
    dA, dB = (torch.zeros(case[name].shape, dtype=dtype_of(case)) for name in ("A", "B"))
    for k, name in enumerate(names):
        if (gradient := layer.lora_A[name].weight.grad) is not None:  # None: no row has this adapter
            dA[k, : len(gradient)] = gradient
            dB[k, :, : len(gradient)] = layer.lora_B[name].weight.grad
    return {**outputs, "dA": dA, "dB": dB}


def _model_of_several(case: Case, names: list[str], base: torch.nn.Module) -> tuple[LoraModel, Any]:
    """A model of one layer with an adapter of each name, and the layer: r, alpha and use_rslora are lists."""
    settings = zip(*(case.config[name] for name in ("r", "alpha", "use_rslora")), strict=True)
    adapters = [LoraConfig(r=r, lora_alpha=a, use_rslora=rs, target_modules=["layer"]) for r, a, rs in settings]
    holder = _Holder(base)
    model = LoraModel(holder, dict(zip(names, adapters, strict=True)), names[0])
    for name in names[1:]:
        model.inject_adapter(holder, name)
    model.to(dtype_of(case))
    return model, holder.layer


def train_steps(case: Case) -> Outputs:
    """peft.tuners.lora.Linear trained by torch.optim."""
    layer = _linear(case)
    A, B = _factors(layer).values()
    return {**run_steps(case, layer, [A, B]), "A_after": A, "B_after": B, "W_after": layer.base_layer.weight}


def _linear(case: Case, **options: Any) -> Any:
    out, in_ = case["W"].shape
    layer = _adapt(torch.nn.Linear(in_, out, bias="b" in case), case, **options)
    _fill(layer, case)
    if "b" in case:
        assign(layer.base_layer.bias, case["b"])
    return layer


def _embedding(case: Case, **options: Any) -> Any:
    base = torch.nn.Embedding(*case["E"].shape, padding_idx=case.config.get("padding_idx"))
    layer = _adapt(base, case, **options)
    _fill(layer, case, W="E")
    return layer


def _adapt(base: torch.nn.Module, case: Case, **options: Any) -> Any:
    """The layer that PEFT replaces base with, in the case's dtype."""
    holder = _Holder(base).to(dtype_of(case))
    inject_adapter_in_model(_config(case, ["layer"], **options), holder)
    return holder.to(dtype_of(case)).layer


def _adapt_projections(block: Any, case: Case, names: tuple[str, ...], weight: str) -> Outputs:
    """Adapt block.q_proj for each name q, with the case's numbers; the factors {"A_q": ..., "B_q": ...}."""
    use_dora = f"m_{names[0]}" in case
    inject_adapter_in_model(_config(case, [f"{n}_proj" for n in names], use_dora=use_dora), block)
    block.to(dtype_of(case))
    trained: Outputs = {}
    for n in names:
        layer = getattr(block, f"{n}_proj")
        _fill(layer, case, f"_{n}", weight.format(n))
        trained |= _factors(layer, f"_{n}")
        if f"b_{n}" in case:
            assign(layer.base_layer.bias, case[f"b_{n}"])
        if f"mask_{n}" in case:
            layer.lora_dropout["default"] = GivenMask(case[f"mask_{n}"])
        if use_dora:
            trained[f"m_{n}"] = layer.lora_magnitude_vector["default"].weight
            assign(trained[f"m_{n}"], case[f"m_{n}"])
    return trained


def _config(case: Case, targets: list[str], **options: Any) -> LoraConfig:
    config = case.config
    return LoraConfig(
        r=config["r"], lora_alpha=config["alpha"], use_rslora=config["use_rslora"], target_modules=targets, **options
    )


def _fill(layer: Any, case: Case, n: str = "", W: str = "W") -> None:
    """Copy the case's weight and factors into an adapted layer."""
    assign(layer.base_layer.weight, case[W])
    for name, factor in _factors(layer, n).items():
        assign(factor, case[name])


def _factors(layer: Any, n: str = "") -> Outputs:
    """{"A": its parameter, "B": its parameter} of an adapted layer; n comes behind both names."""
    if isinstance(layer.base_layer, torch.nn.Embedding):
        return {"A": layer.lora_embedding_A["default"], "B": layer.lora_embedding_B["default"]}
    return {f"A{n}": layer.lora_A["default"].weight, f"B{n}": layer.lora_B["default"].weight}


def _llama(case: Case, **sizes: Any) -> LlamaConfig:
    if "n_heads" in case.config:
        sizes["num_attention_heads"] = case.config["n_heads"]
        sizes["num_key_value_heads"] = case.config["n_kv_heads"]
        sizes["head_dim"] = case["Wq"].shape[0] // case.config["n_heads"]
    else:
        sizes |= {"num_attention_heads": 1, "head_dim": 2}  # an MLP has no heads, but the configuration checks them
    config = LlamaConfig(attention_bias="b_q" in case, mlp_bias="b_gate" in case, **sizes)
    config._attn_implementation = "sdpa"  # what from_pretrained chooses
    return config


def _rotary(case: Case, D: int) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, (1, T, D): each table twice, side by side, as LlamaRotaryEmbedding lays them out.

    Ours, because LlamaRotaryEmbedding computes its angles in float32 whatever the model's dtype.
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
    given: dict[str, Any] = {"config": config, "inputs_embeds": x, "attention_mask": padding}
    if not case.config["causal"]:
        return create_bidirectional_mask(**given)
    return create_causal_mask(**given, past_key_values=None)
