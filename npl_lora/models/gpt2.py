"""GPT-2: learned positions, LayerNorm before each branch, one projection for q, k and v, weights stored (in, out).

    x_0     = E[tokens] + P[positions]
    h_i     = x_i + Attention(LayerNorm(x_i))         q, k and v are thirds of one projection, causal
    x_(i+1) = h_i + proj(gelu(fc(LayerNorm(h_i))))    gelu by its tanh formula
    logits  = LayerNorm(x_n) E^T

Derivation. A composition (`_compose`): pullbacks in reverse order. The gradients of q, k and v, side by side, are that
of the projection they were cut from.

Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019; the names are Hugging Face's.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .._shown import shown
from ..adapters import Module
from ..ops import Pullback
from ._cache import Cache
from ._compose import Array, Gradients, added, chained, inputs_of, recomputed, residual
from ._config import MOST, ModelError, field_of, number, whole
from ._heads import joined, split
from ._part import Part

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
                raise ModelError(f"config.json has {name} = {shown(found[name])}, expected {usual}")
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


def head(model: Part, x: Array) -> tuple[Array, Pullback]:
    """Logits (..., V), by the head's own weight or by the embedding's table."""
    return model.linear(HEAD, x) if f"{HEAD}.weight" in model else model.tied(EMBEDDING, x)


def hidden(
    model: Part,
    config: Config,
    tokens: Array,
    *,
    key_mask: Array | None = None,
    recompute: bool = False,
    cache: Cache | None = None,
) -> tuple[Array, Pullback]:
    """tokens (B, T) -> the last norm's output (B, T, C). Arguments as in llama.hidden."""
    blocks = [partial(block, model.at(f"{PREFIX}h.{i}"), config, i, key_mask, cache) for i in range(config.n_layers)]
    stages = [partial(recomputed, run) for run in blocks] if recompute else blocks
    embed = partial(embedded, model, 0 if cache is None else cache.length)
    return chained([embed, *stages, partial(model.layer_norm, NORM, eps=config.eps)], tokens)


def embedded(model: Part, start: int, tokens: Array) -> tuple[Array, Pullback]:
    """y = E[tokens] + P[start, start + 1, ...]."""
    places = np.broadcast_to(np.arange(start, start + tokens.shape[1]), tokens.shape)
    return added([model.embedding(EMBEDDING, tokens), model.embedding(POSITIONS, places)])


def block(
    part: Part, config: Config, i: int, key_mask: Array | None, cache: Cache | None, x: Array
) -> tuple[Array, Pullback]:
    """x (B, T, C) -> the same shape: attention and MLP, each behind a norm and beside the residual path."""
    look = partial(attention, part.at("attn"), config, i, key_mask, cache)
    think = partial(mlp, part.at("mlp"))
    norms = [partial(part.layer_norm, name, eps=config.eps) for name in ("ln_1", "ln_2")]
    branches = [partial(chained, [norm, branch]) for norm, branch in zip(norms, (look, think), strict=True)]
    return chained([partial(residual, branch) for branch in branches], x)


def mlp(part: Part, x: Array) -> tuple[Array, Pullback]:
    """y = proj(gelu(fc(x)))."""
    fc, proj = (partial(part.linear, name, transposed=True) for name in ("c_fc", "c_proj"))
    return chained([fc, partial(part.activation, "gelu_tanh"), proj], x)


def attention(
    part: Part, config: Config, i: int, key_mask: Array | None, cache: Cache | None, x: Array
) -> tuple[Array, Pullback]:
    """y = proj(softmax(q k^T / sqrt(D)) v), causal."""
    xp, size = x.__array_namespace__(), config.width // config.n_heads
    qkv, qkv_pullback = part.linear("c_attn", x, transposed=True)
    q, k, v = (split(qkv[..., n * config.width : (n + 1) * config.width], size) for n in range(3))
    start = 0 if cache is None else cache.length
    if cache is not None:
        k, v = cache.extend(i, k, v)
    seen, attention_pullback = part.ops.attention(q, k, v, causal=True, offset=start, key_mask=key_mask)
    y, out_pullback = part.linear("c_proj", joined(seen), transposed=True)

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        grads = Gradients(wrt)
        d = attention_pullback(split(grads.through(out_pullback, dy), size))
        dx = grads.through(qkv_pullback, xp.concat([joined(d[name]) for name in "qkv"], axis=-1))
        return {**grads, "x": dx}

    return y, Pullback(backward, y, inputs_of(qkv_pullback, out_pullback))
