"""GPT-2: learned positions, LayerNorm before each branch, one projection for q, k and v, weights stored (in, out).

    x_0     = E[tokens] + P[positions]
    h_i     = x_i + Attention(LayerNorm(x_i))         q, k and v are thirds of one projection, causal
    x_(i+1) = h_i + proj(gelu(fc(LayerNorm(h_i))))    gelu by its tanh formula
    logits  = LayerNorm(x_n) E^T

Derivation. A composition (`ops.compose`): pullbacks in reverse order. The gradients of q, k and v, side by side, are
that of the projection they were cut from.

Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019; the names are Hugging Face's.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..adapters import Module
from ..ops import Pullback
from ..ops.compose import Op, Stage, add, chain, join_heads, recompute, residual, split_heads
from ..support.array import Array
from ..support.quoting import quote_value
from ._cache import Cache
from ._causal import cached_attention
from ._config import MOST, ModelError, field_of, number, whole
from ._scope import Scope

KINDS = ("gpt2",)
TARGETS = ("c_attn",)  # PEFT's
PREFIX = "transformer."  # the oldest checkpoints leave it out
EMBEDDING, POSITIONS, HEAD, NORM = "transformer.wte", "transformer.wpe", "lm_head", "transformer.ln_f"


@dataclass(frozen=True)
class Config:
    """What config.json says of the shapes and constants."""

    n_layers: int
    width: int
    n_heads: int
    inner: int
    vocabulary: int
    positions: int
    eps: float

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Config":
        """From a config.json. Raises ModelError for what is missing, or not to be had here."""
        width, n_heads = whole(found, "n_embd"), whole(found, "n_head")
        field_of(found, "activation_function", "gelu_new", ("gelu_new", "gelu_pytorch_tanh"))
        if width % n_heads:
            raise ModelError(f"config.json has n_embd = {width} and n_head = {n_heads}, expected a multiple")
        for name, usual in (("scale_attn_weights", True), ("scale_attn_by_inverse_layer_idx", False)):
            if found.get(name, usual) is not usual:
                raise ModelError(f"config.json has {name} = {quote_value(found[name])}, expected {usual}")
        return cls(
            n_layers=whole(found, "n_layer", most=MOST),
            width=width,
            n_heads=n_heads,
            inner=whole(found, "n_inner", 4 * width),
            vocabulary=whole(found, "vocab_size"),
            positions=whole(found, "n_positions"),
            eps=number(found, "layer_norm_epsilon", 1e-5),
        )


def modules(config: Config, tensors: Iterable[str]) -> dict[str, Module]:
    """The modules that an adapter may sit on, by path, with the shapes they must have."""
    C, F = config.width, config.inner
    linear = {"attn.c_attn": (3 * C, C), "attn.c_proj": (C, C), "mlp.c_fc": (F, C), "mlp.c_proj": (C, F)}
    found = {EMBEDDING: Module("embedding", (config.vocabulary, C), (f"{EMBEDDING}.weight",))}
    found[POSITIONS] = Module("embedding", (config.positions, C), (f"{POSITIONS}.weight",))
    for i in range(config.n_layers):
        for name, shape in linear.items():
            path = f"{PREFIX}h.{i}.{name}"
            found[path] = Module("linear", shape, (f"{path}.weight", f"{path}.bias"), transposed=True)
    if f"{HEAD}.weight" in tensors:
        found[HEAD] = Module("linear", (config.vocabulary, C), (f"{HEAD}.weight",), output=True)
    return found


def norms(config: Config, tensors: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the tensors that are no module's."""
    paths = [NORM, *(f"{PREFIX}h.{i}.ln_{n}" for i in range(config.n_layers) for n in (1, 2))]
    return {f"{path}.{name}": (config.width,) for path in paths for name in ("weight", "bias")}


def hidden(
    model: Scope, config: Config, *, key_mask: Array | None = None, recomputed: bool = False, cache: Cache | None = None
) -> Stage:
    """tokens (B, T) -> the last norm's output (B, T, C). Arguments as in llama.hidden."""
    blocks = [block(model.at(f"{PREFIX}h.{i}"), config, i, key_mask, cache) for i in range(config.n_layers)]
    return chain(
        embeddings(model, 0 if cache is None else cache.length),
        *(map(recompute, blocks) if recomputed else blocks),
        model.layer_norm(NORM, config.eps),
    )


def embeddings(model: Scope, start: int) -> Stage:
    """y = E[tokens] + P[start, start + 1, ...].  tokens (B, T) -> y (B, T, C)."""
    look_up = model.embedding(POSITIONS)

    def positions(tokens: Array) -> tuple[Array, Pullback]:
        return look_up(np.broadcast_to(np.arange(start, start + tokens.shape[1]), tokens.shape))

    return add(model.embedding(EMBEDDING), positions)


def block(layer: Scope, config: Config, i: int, key_mask: Array | None, cache: Cache | None) -> Stage:
    """h = x + attention(norm(x)),  y = h + mlp(norm(h)).  x (B, T, C) -> y (B, T, C)."""
    attend = attention(layer.at("attn"), config, i, key_mask, cache)
    return chain(
        residual(chain(layer.layer_norm("ln_1", config.eps), attend)),
        residual(chain(layer.layer_norm("ln_2", config.eps), mlp(layer.at("mlp")))),
    )


def attention(layer: Scope, config: Config, i: int, key_mask: Array | None, cache: Cache | None) -> Stage:
    """y = proj(softmax(q k^T / sqrt(D)) v), causal.  x (B, T, C) -> y (B, T, C)."""
    start = 0 if cache is None else cache.length
    attend = partial(cached_attention, layer.ops, i, start, cache, key_mask=key_mask)
    return chain(
        layer.linear("c_attn", transposed=True),  # (B, T, 3 C): q, k and v side by side
        split_heads(config.width // config.n_heads),  # (B, 3 H, T, D)
        partial(in_thirds, attend),  # (B, H, T, D)
        join_heads,
        layer.linear("c_proj", transposed=True),
    )


def in_thirds(op: Op, x: Array) -> tuple[Array, Pullback]:
    """y = op(q, k, v), with q, k and v the thirds of x's heads.  x (B, 3 H, T, D) -> y (B, H, T, D)."""
    xp, H = x.__array_namespace__(), x.shape[1] // 3
    y, pullback = op(q=x[:, :H], k=x[:, H : 2 * H], v=x[:, 2 * H :])

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        if "x" not in wrt:
            return {}
        d = pullback(dy)
        return {"x": xp.concat((d["q"], d["k"], d["v"]), axis=1)}

    return y, Pullback(backward, y, inputs=("x",))


def mlp(layer: Scope) -> Stage:
    """y = proj(gelu(fc(x))).  x (B, T, C) -> y (B, T, C)."""
    fc, proj = (layer.linear(name, transposed=True) for name in ("c_fc", "c_proj"))
    return chain(fc, layer.activation("gelu_tanh"), proj)
