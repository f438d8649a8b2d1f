"""Keras' Dense and Embedding with enable_lora, its loss and its training loop, on its PyTorch backend, as a subject.

Keras stores a kernel (in, out), A (in, r) and B (r, out): this file transposes them on the way in, and the gradients on
the way out. Keras keeps A and B in float32, and adds s A B to the kernel before it multiplies. It has no rsLoRA and no
dropout inside LoRA. Its attention is made of EinsumDense, whose factors have another shape; it is not asked.
"""

import os

os.environ["KERAS_BACKEND"] = "torch"  # before Keras is imported

from typing import Any

import keras
import numpy as np
import torch

from ..case import Case
from .known import keras as known
from .torch_tools import Outputs, leaf, tensor


def lora_layer(in_features: int, out_features: int, rank: int, alpha: float, bias: bool) -> Any:
    """A new keras.layers.Dense with enable_lora."""
    layer = keras.layers.Dense(out_features, use_bias=bias)
    layer.build((None, in_features))
    layer.enable_lora(rank, lora_alpha=alpha)
    return layer


def lora_linear(case: Case) -> Outputs:
    """keras.layers.Dense with enable_lora."""
    if "mask" in case:
        raise NotImplementedError(known.DROPOUT.sentence)
    if case["x"].ndim < 2:
        raise NotImplementedError(known.VECTOR.sentence)
    layer, x = _dense(case), leaf(case["x"])
    y = layer(x)
    y.backward(tensor(case["dy"]))
    return {"y": y, "dx": x.grad, "dA": _grad(layer.lora_kernel_a), "dB": _grad(layer.lora_kernel_b)}


def lora_merge(case: Case) -> Outputs:
    """The kernel that Dense computes and saves with LoRA merged. It keeps its own kernel, which is the unmerged one."""
    layer, fan_in_fan_out = _dense(case), case.config["fan_in_fan_out"]
    kernels = {"W_merged": layer.kernel, "W_unmerged": layer._kernel.value}
    return {name: kernel if fan_in_fan_out else kernel.T for name, kernel in kernels.items()}


def lora_embedding(case: Case) -> Outputs:
    """keras.layers.Embedding with enable_lora."""
    if case.config["padding_idx"] is not None:
        raise NotImplementedError(known.PADDING.sentence)
    layer = keras.layers.Embedding(*case["E"].shape, dtype=case.dtype)
    layer.build()
    layer.enable_lora(_rank(case), lora_alpha=case.config["alpha"])
    layer._embeddings.assign(case["E"])
    layer.lora_embeddings_a.assign(case["A"].T)
    layer.lora_embeddings_b.assign(case["B"].T)
    y = layer(tensor(case["ids"]))
    y.backward(tensor(case["dy"]))
    return {"y": y, "dA": _grad(layer.lora_embeddings_a), "dB": _grad(layer.lora_embeddings_b)}


def cross_entropy(case: Case) -> Outputs:
    """SparseCategoricalCrossentropy with ignore_class; over several micro-batches with the optimizer's accumulation.

    A variable is added to the logits, and starts at 0. SGD with rate 1 trains it for one window: it ends as minus the
    gradient. The loss of several micro-batches is the mean of theirs, as `fit` reports it.
    """
    config, logits, labels = case.config, tensor(case["logits"]), tensor(case["labels"])
    every = config["accumulation"]
    loss_of = keras.losses.SparseCategoricalCrossentropy(True, config["ignore_index"], dtype=case.dtype)
    moved = keras.Variable(np.zeros_like(case["logits"]), dtype=case.dtype)
    optimizer = keras.optimizers.SGD(1.0, gradient_accumulation_steps=every if every > 1 else None)
    losses = []
    for rows in torch.arange(len(logits)).chunk(every):
        moved.value.grad = None
        loss = loss_of(labels[rows, 1:], (logits + moved.value)[rows, :-1])
        loss.backward()
        losses.append(loss.detach())
        with torch.no_grad():
            optimizer.apply([moved.value.grad], [moved])
    return {"loss": torch.stack(losses).mean(), "dlogits": -moved.value}


def rms_norm(case: Case) -> Outputs:
    """keras.layers.RMSNormalization."""
    norm, x = keras.layers.RMSNormalization(epsilon=case.config["eps"], dtype=case.dtype), leaf(case["x"])
    norm.build(x.shape)
    norm.scale.assign(case["w"])
    y = norm(x)
    y.backward(tensor(case["dy"]))
    return {"y": y, "dx": x.grad, "dw": norm.scale.value.grad}


def train_steps(case: Case) -> Outputs:
    """A model of one Dense, compiled with Keras' loss and optimizer, trained with train_on_batch."""
    config, layer = case.config, _dense(case)
    every = config["accumulation"]
    common = {"weight_decay": config["weight_decay"], "gradient_accumulation_steps": every if every > 1 else None}
    if config["optimizer"] == "sgd":
        optimizer = keras.optimizers.SGD(config["lr"], **common)
    else:
        beta_1, beta_2 = config["betas"]
        optimizer = keras.optimizers.AdamW(config["lr"], beta_1=beta_1, beta_2=beta_2, epsilon=config["eps"], **common)
    model = keras.Sequential([layer])
    model.compile(optimizer, loss=keras.losses.MeanSquaredError(dtype=case.dtype), jit_compile=False)
    losses = [model.train_on_batch(x, y) for x, y in zip(case["X"], case["Y"], strict=True)]
    A, B = layer.lora_kernel_a.value.T, layer.lora_kernel_b.value.T
    windows = np.reshape(losses, (-1, every)).mean(axis=1)
    return {"losses": windows, "A_after": A, "B_after": B, "W_after": layer._kernel.value.T}


def _rank(case: Case) -> int:
    if case.config["use_rslora"]:
        raise NotImplementedError(known.RSLORA.sentence)
    return case.config["r"]


def _dense(case: Case) -> Any:
    out, in_ = case["B"].shape[0], case["A"].shape[1]
    layer = keras.layers.Dense(out, use_bias="b" in case, dtype=case.dtype)
    layer.build((None, in_))
    layer.enable_lora(_rank(case), lora_alpha=case.config["alpha"])
    layer._kernel.assign(case["W"] if case.config.get("fan_in_fan_out") else case["W"].T)
    layer.lora_kernel_a.assign(case["A"].T)
    layer.lora_kernel_b.assign(case["B"].T)
    if "b" in case:
        layer.bias.assign(case["b"])
    return layer


def _grad(variable: Any) -> torch.Tensor:
    return variable.value.grad.T
