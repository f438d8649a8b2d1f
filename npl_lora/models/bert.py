"""BERT: word, position and token-type embeddings, LayerNorm behind each residual sum, every token seen by every other.

    x_0     = LayerNorm(E[tokens] + P[positions] + S[0])      all tokens are of type 0: one sentence
    h_i     = LayerNorm(x_i + Attention(x_i))
    x_(i+1) = LayerNorm(h_i + output(gelu(intermediate(h_i))))

Its own dropout (hidden_dropout_prob) is not applied: what is dropped here is an adapter's input alone.

Derivation. A composition (`ops.compose`): pullbacks in reverse order.

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
from ..ops.compose import Stage, add, branch, chain, join_heads, recompute, residual, split_heads
from ..support.array import Array
from ._config import MOST, ModelError, field_of, number, padding, whole
from ._scope import Scope

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


def hidden(model: Scope, config: Config, *, key_mask: Array | None = None, recomputed: bool = False) -> Stage:
    """tokens (B, T) -> the last block's output (B, T, C). Arguments as in llama.hidden."""
    blocks = [block(model.at(_layer(i)), config, key_mask) for i in range(config.n_layers)]
    norm = model.layer_norm(NORM, config.eps)
    return chain(embeddings(model, config.padding_idx), norm, *(map(recompute, blocks) if recomputed else blocks))


def embeddings(model: Scope, padding_idx: int | None) -> Stage:
    """y = E[tokens] + P[0, 1, ...] + S[0].  tokens (B, T) -> y (B, T, C)."""
    position, kind = model.embedding(POSITIONS), model.embedding(TYPES)

    def positions(tokens: Array) -> tuple[Array, Pullback]:
        return position(np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape))

    def types(tokens: Array) -> tuple[Array, Pullback]:
        return kind(np.zeros_like(tokens))

    return add(model.embedding(EMBEDDING, padding_idx), positions, types)


def block(layer: Scope, config: Config, key_mask: Array | None) -> Stage:
    """h = norm(x + attention(x)),  y = norm(h + mlp(h)).  x (B, T, C) -> y (B, T, C)."""
    return chain(
        residual(attention(layer.at("attention"), config.width // config.n_heads, key_mask)),
        layer.layer_norm("attention.output.LayerNorm", config.eps),
        residual(mlp(layer)),
        layer.layer_norm("output.LayerNorm", config.eps),
    )


def attention(layer: Scope, head_size: int, key_mask: Array | None) -> Stage:
    """y = output(softmax(q k^T / sqrt(D)) v) over the keys that are no padding.  x (B, T, C) -> y (B, T, C)."""

    def heads(name: str) -> Stage:  # (B, T, C) -> (B, H, T, D)
        return chain(layer.linear(f"self.{name}"), split_heads(head_size))

    attend = partial(layer.ops.attention, key_mask=key_mask)
    inner = branch(attend, q=heads("query"), k=heads("key"), v=heads("value"))
    return chain(inner, join_heads, layer.linear("output.dense"))


def mlp(layer: Scope) -> Stage:
    """y = output(gelu(intermediate(x))).  x (B, T, C) -> y (B, T, C)."""
    return chain(layer.linear("intermediate.dense"), layer.activation("gelu"), layer.linear("output.dense"))


def pooled(model: Scope) -> Stage:
    """y = tanh(pooler(x)), of the first token's features: what BERT was trained to say of a pair of sentences."""
    return chain(model.linear(POOLER), model.activation("tanh"))


def _layer(i: int) -> str:
    return f"bert.encoder.layer.{i}"
