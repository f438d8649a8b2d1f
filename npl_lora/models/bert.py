"""BERT: word, position and token-type embeddings, LayerNorm after each residual sum, attention in both directions.

    x_0     = norm(E[tokens] + P[positions] + S[0])      all tokens have type 0: one sentence
    h_i     = norm(x_i + attention(x_i))
    x_(i+1) = norm(h_i + mlp(h_i))                       output(gelu(intermediate))

BERT's own dropout (hidden_dropout_prob) is not applied. Only an adapter's input has dropout here.

Derivation. The model is composed of stages (`ops.compose`), which give the pullback too.

Source: Devlin et al., "BERT", 2019, section 3; Vaswani et al. 2017 for the order of sum and norm; the names are Hugging
Face's.
"""

from functools import partial

import numpy as np

from ..ops import Pullback
from ..ops.compose import Stage, add, branch, chain, join_heads, recompute, residual, split_heads
from ..support.array import Array
from ._bert_config import (
    EMBEDDING,
    KINDS,
    NORM,
    POOLER,
    POSITIONS,
    PREFIX,
    TARGETS,
    TYPES,
    Config,
    layer_path,
    modules,
    name_of,
    norms,
)
from ._scope import Scope


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


def hidden(model: Scope, config: Config, *, key_mask: Array | None = None, recomputed: bool = False) -> Stage:
    """tokens (B, T) -> the last block's output (B, T, C). The arguments are those of `_family.Family.hidden`."""
    blocks = [block(model.at(layer_path(i)), config, key_mask) for i in range(config.n_layers)]
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


def pooled(model: Scope) -> Stage:
    """y = tanh(pooler(x)), where x (B, C) is the first token's features, as BERT was trained."""
    return chain(model.linear(POOLER), model.activation("tanh"))


__all__ = [
    "EMBEDDING",
    "KINDS",
    "POOLER",
    "PREFIX",
    "TARGETS",
    "Config",
    "hidden",
    "modules",
    "name_of",
    "norms",
    "pooled",
]
