"""BERT: word, position and token-type embeddings, LayerNorm behind each residual sum, every token seen by every other.

    x_0     = LayerNorm(E[tokens] + P[positions] + S[0])      all tokens are of type 0: one sentence
    h_i     = LayerNorm(x_i + Attention(x_i))
    x_(i+1) = LayerNorm(h_i + output(gelu(intermediate(h_i))))

Its own dropout (hidden_dropout_prob) is not applied: what is dropped here is an adapter's input alone.

Derivation. A composition (`_compose`): pullbacks in reverse order.

Source: Devlin et al., "BERT", 2019, section 3; Vaswani et al. 2017 for the order of sum and norm; the names are Hugging
Face's.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..adapters import Module
from ..ops import Pullback
from ._compose import Array, Gradients, added, chained, inputs_of, recomputed, residual
from ._config import MOST, ModelError, field_of, number, padding, whole
from ._heads import joined, split
from ._part import Part

KINDS = ("bert",)
TARGETS = ("query", "value")  # PEFT's
PREFIX = "bert."  # a model that was saved without a head leaves it out
EMBEDDING, POSITIONS, TYPES = (f"bert.embeddings.{name}_embeddings" for name in ("word", "position", "token_type"))
NORM, POOLER = "bert.embeddings.LayerNorm", "bert.pooler.dense"


@dataclass(frozen=True)
class Config:
    """What config.json says of the shapes and constants."""

    n_layers: int
    width: int
    n_heads: int
    inner: int
    vocabulary: int
    positions: int
    types: int
    eps: float
    padding_idx: int | None = None

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Config":
        """From a config.json. Raises ModelError for what is missing, or not to be had here."""
        width, n_heads = whole(found, "hidden_size"), whole(found, "num_attention_heads")
        field_of(found, "hidden_act", "gelu", ("gelu",))
        field_of(found, "position_embedding_type", "absolute", ("absolute",))
        if width % n_heads:
            said = f"hidden_size = {width} and num_attention_heads = {n_heads}"
            raise ModelError(f"config.json has {said}, expected a multiple")
        if found.get("is_decoder"):
            raise ModelError("config.json has is_decoder = true, expected a model that sees all tokens")
        return cls(
            n_layers=whole(found, "num_hidden_layers", most=MOST),
            width=width,
            n_heads=n_heads,
            inner=whole(found, "intermediate_size"),
            vocabulary=whole(found, "vocab_size"),
            positions=whole(found, "max_position_embeddings"),
            types=whole(found, "type_vocab_size", 2),
            eps=number(found, "layer_norm_eps", 1e-12),
            padding_idx=padding(found),
        )


def name_of(tensor: str) -> str:
    """The name of a tensor today: the oldest checkpoints say gamma and beta."""
    return tensor.replace(".LayerNorm.gamma", ".LayerNorm.weight").replace(".LayerNorm.beta", ".LayerNorm.bias")


def modules(config: Config, tensors: Container[str]) -> dict[str, Module]:
    """The modules that an adapter may sit on, by path, with the shapes they must have. The pooler where it is there."""
    C, F = config.width, config.inner
    tables = {EMBEDDING: config.vocabulary, POSITIONS: config.positions, TYPES: config.types}
    linear = {f"attention.self.{name}": (C, C) for name in ("query", "key", "value")}
    linear |= {"attention.output.dense": (C, C), "intermediate.dense": (F, C), "output.dense": (C, F)}
    found = {path: Module("embedding", (rows, C), (f"{path}.weight",)) for path, rows in tables.items()}
    shapes = {f"{_layer(i)}.{name}": shape for i in range(config.n_layers) for name, shape in linear.items()}
    shapes |= {POOLER: (C, C)} if f"{POOLER}.weight" in tensors else {}
    return found | {path: Module("linear", s, (f"{path}.weight", f"{path}.bias")) for path, s in shapes.items()}


def norms(config: Config, tensors: Container[str]) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the tensors that are no module's."""
    within = ("attention.output", "output")
    paths = [NORM, *(f"{_layer(i)}.{name}.LayerNorm" for i in range(config.n_layers) for name in within)]
    return {f"{path}.{name}": (config.width,) for path in paths for name in ("weight", "bias")}


def hidden(
    model: Part, config: Config, tokens: Array, *, key_mask: Array | None = None, recompute: bool = False
) -> tuple[Array, Pullback]:
    """tokens (B, T) -> the last block's output (B, T, C). Arguments as in llama.hidden."""
    blocks = [partial(block, model.at(_layer(i)), config, key_mask) for i in range(config.n_layers)]
    stages = [partial(recomputed, run) for run in blocks] if recompute else blocks
    norm = partial(model.layer_norm, NORM, eps=config.eps)
    return chained([partial(embedded, model, config.padding_idx), norm, *stages], tokens)


def embedded(model: Part, padding_idx: int | None, tokens: Array) -> tuple[Array, Pullback]:
    """y = E[tokens] + P[0, 1, ...] + S[0]."""
    places = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    words = model.embedding(EMBEDDING, tokens, padding_idx)
    return added([words, model.embedding(POSITIONS, places), model.embedding(TYPES, np.zeros_like(tokens))])


def block(part: Part, config: Config, key_mask: Array | None, x: Array) -> tuple[Array, Pullback]:
    """x (B, T, C) -> the same shape: attention and MLP, each beside the residual path, a norm behind each sum."""
    look = partial(attention, part.at("attention"), config.width // config.n_heads, key_mask)
    norms = [partial(part.layer_norm, f"{at}.LayerNorm", eps=config.eps) for at in ("attention.output", "output")]
    return chained([partial(residual, look), norms[0], partial(residual, partial(mlp, part)), norms[1]], x)


def mlp(part: Part, x: Array) -> tuple[Array, Pullback]:
    """y = output(gelu(intermediate(x)))."""
    inner, outer = (partial(part.linear, f"{name}.dense") for name in ("intermediate", "output"))
    return chained([inner, partial(part.activation, "gelu"), outer], x)


def attention(part: Part, head_size: int, key_mask: Array | None, x: Array) -> tuple[Array, Pullback]:
    """y = output(softmax(q k^T / sqrt(D)) v) over the keys that are no padding. The gradient of x is the sum over q, k
    and v."""
    projections = {name: part.linear(f"self.{name}", x) for name in ("query", "key", "value")}
    q, k, v = (split(y, head_size) for y, _ in projections.values())
    seen, attention_pullback = part.ops.attention(q, k, v, key_mask=key_mask)
    y, out_pullback = part.linear("output.dense", joined(seen))
    pullbacks = [pullback for _, pullback in projections.values()]

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        grads = Gradients(wrt)
        d = attention_pullback(split(grads.through(out_pullback, dy), head_size))
        dx = [grads.through(pullback, joined(d[name])) for pullback, name in zip(pullbacks, "qkv", strict=True)]
        return {**grads, "x": dx[0] + dx[1] + dx[2]}

    return y, Pullback(backward, y, inputs_of(*pullbacks, out_pullback))


def pooled(model: Part, x: Array) -> tuple[Array, Pullback]:
    """y = tanh(pooler(x)), of the first token's features: what BERT was trained to say of a pair of sentences."""
    return chained([partial(model.linear, POOLER), partial(model.activation, "tanh")], x)


def _layer(i: int) -> str:
    return f"bert.encoder.layer.{i}"
