"""GPT-2: learned positions, LayerNorm before each branch, one projection for q, k and v, weights stored (in, out).

    x_0     = E[tokens] + P[positions]
    h_i     = x_i + attention(norm(x_i))          q, k and v are thirds of one projection, causal
    x_(i+1) = h_i + mlp(norm(h_i))                proj(gelu(fc)), gelu by its tanh formula; norm is LayerNorm
    logits  = norm(x_n) E^T

Derivation. The model is composed of stages (`ops.compose`), which give the pullback too. The gradients of q, k and v,
side by side, are the gradient of the projection that they were cut from.

Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019; the names are Hugging Face's.
"""

from functools import partial

import numpy as np

from ..ops import Pullback
from ..ops.compose import Op, Stage, add, chain, join_heads, recompute, residual, split_heads
from ..support.array import Array
from ._cache import Cache
from ._causal import cached_attention, output_layer
from ._gpt2_config import EMBEDDING, HEAD, KINDS, NORM, POSITIONS, PREFIX, TARGETS, Config, modules, norms
from ._scope import Scope


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


def mlp(layer: Scope) -> Stage:
    """y = proj(gelu(fc(x))).  x (B, T, C) -> y (B, T, C)."""
    fc, proj = (layer.linear(name, transposed=True) for name in ("c_fc", "c_proj"))  # C -> F -> C
    return chain(fc, layer.activation("gelu_tanh"), proj)


def hidden(
    model: Scope, config: Config, *, key_mask: Array | None = None, recomputed: bool = False, cache: Cache | None = None
) -> Stage:
    """tokens (B, T) -> the last norm's output (B, T, C). The arguments are those of `_family.CausalFamily.hidden`."""
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


def logits(model: Scope, config: Config) -> Stage:
    """x (..., C) -> logits (..., V), by the head, or by the embedding's table where the two are tied."""
    return output_layer(model, HEAD, EMBEDDING)


__all__ = ["EMBEDDING", "HEAD", "KINDS", "PREFIX", "TARGETS", "Config", "hidden", "logits", "modules", "norms"]
