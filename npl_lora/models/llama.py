"""Llama. Mistral, Qwen2 and Qwen3 are the same model with small additions.

    x_0     = E[tokens]
    h_i     = x_i + attention(norm(x_i))          rope on q and k, grouped key/value heads, causal
    x_(i+1) = h_i + mlp(norm(h_i))                down(silu(gate) o up), norm is RMSNorm
    logits  = norm(x_n) W_head^T                  W_head is E if the head is tied

Mistral and Qwen2 may have a sliding window. Qwen2 has biases on q, k and v. Qwen3 normalises each head of q and k
before rope. A bias or a norm is used if the checkpoint has its tensor.

layer.rms_norm(name), layer.linear(name) and attention(...) compute nothing yet: each returns a stage, a function of x
(`ops.compose`, `_scope`).

Derivation. The composed stages give the pullback too. For y = x + f(x), dx = dy + f's pullback of dy.

Source: Touvron et al., "LLaMA", 2023, section 2.2; Jiang et al., "Mistral 7B", 2023; Yang et al., "Qwen2" and "Qwen3"
technical reports, 2024 and 2025; Su et al. 2021 for rope; its angles are in `_rope_config`.
"""

from collections.abc import Callable
from functools import partial

from ..ops import Pullback
from ..ops.compose import Stage, branch, chain, join_heads, recompute, residual, split_heads
from ..support.array import Array
from ._cache import Cache
from ._causal import cached_attention, output_layer
from ._llama_config import EMBEDDING, HEAD, KINDS, NORM, PREFIX, TARGETS, Config, modules, norms
from ._scope import Scope


def block(layer: Scope, config: Config, i: int, key_mask: Array | None, cache: Cache | None) -> Stage:
    """h = x + attention(norm(x)),  y = h + mlp(norm(h)).  x (B, T, C) -> y (B, T, C)."""
    attend = attention(layer.at("self_attn"), config, i, key_mask, cache)
    return chain(
        residual(chain(rms_norm(layer, config, "input_layernorm"), attend)),
        residual(chain(rms_norm(layer, config, "post_attention_layernorm"), mlp(layer.at("mlp"), config))),
    )


def attention(layer: Scope, config: Config, i: int, key_mask: Array | None, cache: Cache | None) -> Stage:
    """y = o(softmax(q k^T / sqrt(D)) v), causal, with rope on q and k.  x (B, T, C) -> y (B, T, C)."""
    q, k, v = (layer.linear(f"{name}_proj") for name in "qkv")
    return attention_of(layer, config, i, key_mask, cache, q=q, k=k, v=v)


def attention_of(
    layer: Scope, config: Config, i: int, key_mask: Array | None, cache: Cache | None, **projections: Stage
) -> Stage:
    """The same from the stages q, k and v, which give (B, T, H D), or G D features for k and v."""
    start = 0 if cache is None else cache.length

    def rope(x: Array) -> tuple[Array, Pullback]:
        return layer.ops.rope(x, start=start, frequencies=config.rope_of(i).at(start + x.shape[-2]))

    def heads(name: str) -> list[Stage]:  # (B, T, C) -> (B, H, T, D), or G heads for k and v; some normalise q and k
        norm = [rms_norm(layer, config, f"{name}_norm")] if f"{name}_norm.weight" in layer else []
        return [projections[name], split_heads(config.head_size), *norm]

    attend = partial(
        cached_attention,
        layer.ops,
        i,
        start,
        cache,
        scale=config.score_scale,
        window=config.windows[i],
        softcap=config.softcap,
        key_mask=key_mask,
    )
    q, k, v = chain(*heads("q"), rope), chain(*heads("k"), rope), chain(*heads("v"))
    return chain(branch(attend, q=q, k=k, v=v), join_heads, layer.linear("o_proj"))


def mlp(layer: Scope, config: Config) -> Stage:
    """y = down(act(gate(x)) o up(x)); act is SiLU.  x (B, T, C) -> y (B, T, C)."""
    return mlp_of(layer, config, gate=layer.linear("gate_proj"), up=layer.linear("up_proj"))


def mlp_of(layer: Scope, config: Config, *, gate: Stage, up: Stage) -> Stage:
    """The same from the stages gate and up, which give (B, T, F)."""
    inner = branch(partial(layer.ops.glu, activation=config.activation), gate=gate, up=up)
    return chain(inner, layer.linear("down_proj"))


def rms_norm(place: Scope, config: Config, name: str) -> Stage:
    """x (..., C) -> y (..., C), RMSNorm with the weight of this name."""
    return place.rms_norm(name, config.eps, config.norm_offset)


def hidden(
    model: Scope,
    config: Config,
    *,
    key_mask: Array | None = None,
    recomputed: bool = False,
    cache: Cache | None = None,
    make_block: Callable[..., Stage] = block,
) -> Stage:
    """tokens (B, T) -> the last norm's output (B, T, C). make_block: for what differs in its blocks alone. The other
    arguments are those of `_family.CausalFamily.hidden`."""
    blocks = [make_block(model.at(f"model.layers.{i}"), config, i, key_mask, cache) for i in range(config.n_layers)]
    return chain(
        model.embedding(EMBEDDING, config.padding_idx),
        *(map(recompute, blocks) if recomputed else blocks),
        rms_norm(model, config, NORM),
    )


def logits(model: Scope, config: Config) -> Stage:
    """x (..., C) -> logits (..., V), by the head, or by the embedding's table where the two are tied."""
    return output_layer(model, HEAD, EMBEDDING)


__all__ = ["EMBEDDING", "HEAD", "KINDS", "PREFIX", "TARGETS", "Config", "hidden", "logits", "modules", "norms"]
