"""mlx-lm's LoRA and DoRA layers, its Llama attention and gated MLPs, its loss and its trainer, as a subject.

The library computes everything. Three things are ours. mlx-lm takes a `scale` and knows neither alpha nor rsLoRA: it
is given s. It stores A and B transposed: this file transposes them. A dropout mask comes from a function that replaces
its dropout.
"""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models import gemma, gemma2, llama
from mlx_lm.models.base import create_causal_mask
from mlx_lm.tuner.callbacks import TrainingCallback
from mlx_lm.tuner.dora import DoRALinear
from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear
from mlx_lm.tuner.trainer import TrainingArgs, default_loss, train

from ..case import Case
from ..definition import scale
from .known import mlx as known

Outputs = dict[str, Any]


def lora_layer(in_features: int, out_features: int, rank: int, scale: float, dropout: float, bias: bool) -> Any:
    """A new LoRALinear of mlx-lm."""
    base = nn.Linear(in_features, out_features, bias=bias).freeze()
    return LoRALinear.from_base(base, r=rank, scale=scale, dropout=dropout)


def lora_linear(case: Case) -> Outputs:
    """mlx-lm's LoRALinear."""
    layer = _linear(LoRALinear, case)
    if "mask" in case:
        layer.dropout = lambda x: x * _array(case["mask"])
    return _run(layer, case)


def dora_linear(case: Case) -> Outputs:
    """mlx-lm's DoRALinear."""
    layer = _linear(DoRALinear, case)
    layer.m = _array(case["m"])
    return _run(layer, case)


def lora_merge(case: Case) -> Outputs:
    """fuse, which makes a new layer. The adapted layer itself keeps the unmerged weight."""
    if case.config["fan_in_fan_out"]:
        raise NotImplementedError(known.STORED.sentence)
    layer = _linear(LoRALinear, case)
    return {"W_merged": layer.fuse().weight, "W_unmerged": layer.linear.weight}


def lora_embedding(case: Case) -> Outputs:
    """mlx-lm's LoRAEmbedding."""
    if case.config["padding_idx"] is not None:
        raise NotImplementedError(known.PADDING.sentence)
    base = nn.Embedding(*case["E"].shape)
    base.weight = _array(case["E"])
    layer = LoRAEmbedding.from_base(base, r=case.config["r"], scale=scale(case.config))
    layer.lora_a, layer.lora_b = _array(case["A"]).T, _array(case["B"]).T
    y, _, grads = _backward(layer, lambda: layer(mx.array(case["ids"])), [], case["dy"])
    return {"y": y, **grads}


def lora_attention(case: Case) -> Outputs:
    """mlx-lm's Llama attention, its projections replaced by LoRALinear as its tuner does."""
    config, (_, T, C) = case.config, case["x"].shape
    block = llama.Attention(
        llama.ModelArgs(
            model_type="llama",
            hidden_size=C,
            num_hidden_layers=1,
            intermediate_size=C,
            num_attention_heads=config["n_heads"],
            num_key_value_heads=config["n_kv_heads"],
            head_dim=case["Wq"].shape[0] // config["n_heads"],
            rms_norm_eps=1e-6,
            vocab_size=1,
            rope_theta=config["rope_theta"] or 1.0,
        )
    )
    if config["rope_theta"] is None:
        block.rope = lambda x: x
    for n in "qkvo":
        setattr(block, f"{n}_proj", _linear(LoRALinear, case, f"_{n}", f"W{n}"))
    mask: Any = create_causal_mask(T) if config["causal"] else None
    if "key_mask" in case:
        visible = mx.array(case["key_mask"])[:, None, None, :]
        mask = visible if mask is None else mask & visible
    return _run(lambda x: block(x, mask=mask), case, module=block)


def lora_mlp(case: Case) -> Outputs:
    """The gated MLPs of mlx-lm's models: Llama's has silu, Gemma's gelu, Gemma 2's its tanh approximation."""
    F, C = case["W_gate"].shape
    if case.config["activation"] == "silu":
        block = llama.MLP(llama.ModelArgs("llama", C, 1, F, 1, 1e-6, 1))
    else:
        block = {"gelu": gemma.MLP, "gelu_tanh": gemma2.MLP}[case.config["activation"]](C, F)
    for n in ("gate", "up", "down"):
        setattr(block, f"{n}_proj", _linear(LoRALinear, case, f"_{n}", f"W_{n}"))
    return _run(block, case)


def cross_entropy(case: Case) -> Outputs:
    """mlx-lm's default_loss in mlx-lm's trainer, with its gradient accumulation.

    An array is added to the logits, and starts at 0. SGD with rate 1 trains it for one window: it ends as minus the
    gradient. The first token of a row, which nothing predicts, holds the row's number.
    """
    labels, every = case["labels"], case.config["accumulation"]
    counts = labels[:, 1:] != case.config["ignore_index"]
    lengths = np.array([_stretch(row) for row in counts])
    tokens = np.where(np.pad(counts, ((0, 0), (1, 0))), labels, 0)
    tokens[:, 0] = np.arange(len(tokens))
    model = _Logits(_array(case["logits"]))
    batches = zip(np.split(tokens, every), np.split(lengths, every), strict=True)
    losses = _train(model, default_loss, optimizers.SGD(1.0), [tuple(map(mx.array, b)) for b in batches], every)
    return {"loss": losses[0], "dlogits": -model.moved}


def rms_norm(case: Case) -> Outputs:
    """MLX's RMSNorm."""
    norm = nn.RMSNorm(case["w"].size, eps=case.config["eps"])

    def forward(x: mx.array, w: mx.array) -> mx.array:
        norm.weight = w
        return norm(x)

    (y,), (dx, dw) = mx.vjp(forward, [_array(case["x"]), _array(case["w"])], [_array(case["dy"])])
    return {"y": y, "dx": dx, "dw": dw}


def rope(case: Case) -> Outputs:
    """MLX's RoPE."""
    positions, D = case["positions"], case["x"].shape[-1]
    if np.any(np.diff(positions) != 1):
        raise NotImplementedError(known.OFFSET.sentence)
    table = nn.RoPE(D, traditional=case.config["interleaved"], base=case.config["theta"])
    (y,), (dx,) = mx.vjp(lambda x: table(x, offset=int(positions[0])), [_array(case["x"])], [_array(case["dy"])])
    return {"y": y, "dx": dx}


def train_steps(case: Case) -> Outputs:
    """mlx-lm's LoRALinear in mlx-lm's trainer."""
    config = case.config
    layer = _linear(LoRALinear, case)
    layer.linear.freeze()

    def loss(model: nn.Module, x: mx.array, y: mx.array) -> tuple[mx.array, mx.array]:
        return nn.losses.mse_loss(model(x), y), mx.array(y.size)

    if config["optimizer"] == "sgd":
        optimizer = optimizers.SGD(config["lr"], weight_decay=config["weight_decay"])
    else:
        settings = {name: config[name] for name in ("betas", "eps", "weight_decay")}
        optimizer = optimizers.AdamW(config["lr"], bias_correction=True, **settings)
    batches = [(_array(x), _array(y)) for x, y in zip(case["X"], case["Y"], strict=True)]
    losses = _train(layer, loss, optimizer, batches, config["accumulation"])
    after = {"A_after": layer.lora_a.T, "B_after": layer.lora_b.T, "W_after": layer.linear.weight}
    return {"losses": np.array(losses), **after}


class _Logits(nn.Module):
    """The logits of a case, and the trained array that is added to them."""

    def __init__(self, logits: mx.array) -> None:
        super().__init__()
        self._given = logits
        self.moved = mx.zeros_like(logits)

    def __call__(self, tokens: mx.array) -> mx.array:
        return (self._given + self.moved)[tokens[:, 0], :-1]


class _Losses(TrainingCallback):
    """The losses that the trainer reports."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        self.losses.append(train_info["train_loss"])


def _train(
    model: nn.Module, loss: Callable[..., Any], optimizer: Any, batches: Iterable[Any], accumulation: int
) -> list[float]:
    """Train on each batch once. Returns the loss reported for each window."""
    if any(value.dtype == mx.float64 for _, value in tree_flatten(model.parameters())):
        raise NotImplementedError(known.SAVES.sentence)
    batches, callback = list(batches), _Losses()
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArgs(
            iters=len(batches),
            steps_per_report=accumulation,
            grad_accumulation_steps=accumulation,
            adapter_file=str(Path(folder) / "adapters.safetensors"),
        )
        options: dict[str, Any] = {"loss": loss, "iterate_batches": lambda **_: iter(batches)}
        train(model, optimizer, None, args=args, training_callback=callback, **options)
    return callback.losses


def _stretch(counts: np.ndarray) -> tuple[int, int]:
    """The first and the last position that counts, from 1. mlx-lm counts every position between them."""
    where = np.flatnonzero(counts)
    if where.size == 0:
        return 1, 0
    if where.size != where[-1] - where[0] + 1:
        raise NotImplementedError(known.STRETCH.sentence)
    return int(where[0]) + 1, int(where[-1]) + 1


def _linear(kind: Any, case: Case, n: str = "", W: str = "W") -> Any:
    out, in_ = case[W].shape
    base = nn.Linear(in_, out, bias="b" in case)
    base.weight = _array(case[W])
    if "b" in case:
        base.bias = _array(case["b"])
    layer = kind.from_base(base, r=case.config["r"], scale=scale(case.config))
    layer.lora_a, layer.lora_b = _array(case[f"A{n}"]).T, _array(case[f"B{n}"]).T
    return layer


def _run(call: Callable[[mx.array], mx.array], case: Case, module: Any = None) -> Outputs:
    """y, dx and the factors' gradients."""
    y, (dx,), grads = _backward(module or call, call, [_array(case["x"])], case["dy"])
    return {"y": y, "dx": dx, **grads}


def _backward(
    layer: Any, call: Callable[..., mx.array], inputs: list[mx.array], dy: np.ndarray
) -> tuple[mx.array, list[mx.array], Outputs]:
    """call(*inputs), and its gradients by the inputs and by the factors in the layer."""
    trained = {path: value for path, value in tree_flatten(layer.parameters()) if _output(path)}

    def forward(*values: mx.array) -> mx.array:
        layer.update(tree_unflatten(list(zip(trained, values[len(inputs) :], strict=True))))
        return call(*values[: len(inputs)])

    (y,), grads = mx.vjp(forward, [*inputs, *trained.values()], [_array(dy)])
    factors = zip(trained, grads[len(inputs) :], strict=True)
    return y, grads[: len(inputs)], {_output(path): grad.T for path, grad in factors}


def _output(path: str) -> str:
    """dA_q for q_proj.lora_a, dA for lora_a, dm for m; nothing for the weights."""
    module, _, name = path.rpartition(".")
    factor = {"lora_a": "dA", "lora_b": "dB", "m": "dm"}.get(name, "")
    return f"{factor}_{module.removesuffix('_proj')}" if factor and module else factor


def _array(array: np.ndarray) -> mx.array:
    """The same numbers in the same dtype."""
    if array.dtype.kind in "biu":
        return mx.array(array)
    if array.dtype == np.float64:
        return mx.array(array, dtype=mx.float64)
    return mx.array(array.astype(np.float32)).astype(getattr(mx, array.dtype.name))
