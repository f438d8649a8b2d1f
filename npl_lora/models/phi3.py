"""Phi-3, as what differs from Llama: one matrix gives q, k and v, and one gives gate and up.

    [q | k | v]  = W_qkv x        H D, G D and G D features
    [gate | up]  = W_gate_up x    F and F features

Derivation. Each part reads features of its own, so the gradients of the parts stand side by side as the parts do.

Source: Abdin et al., "Phi-3 Technical Report", 2024, section 2; transformers 5.23.0.
"""

from functools import partial

from ..ops.compose import Stage, chain, features, residual
from ..support.array import Array
from . import llama
from ._cache import Cache
from ._llama_config import EMBEDDING, HEAD, PREFIX, Config, modules, norms
from ._scope import Scope

KINDS: tuple[str, ...] = ("phi3",)
TARGETS: tuple[str, ...] = ("qkv_proj",)


def block(layer: Scope, config: Config, i: int, key_mask: Array | None, cache: Cache | None) -> Stage:
    """h = x + attention(norm(x)),  y = h + mlp(norm(h)).  x (B, T, C) -> y (B, T, C)."""
    attend = attention(layer.at("self_attn"), config, i, key_mask, cache)
    return chain(
        residual(chain(llama.rms_norm(layer, config, "input_layernorm"), attend)),
        residual(chain(llama.rms_norm(layer, config, "post_attention_layernorm"), mlp(layer.at("mlp"), config))),
    )


def attention(layer: Scope, config: Config, i: int, key_mask: Array | None, cache: Cache | None) -> Stage:
    """Llama's, from one matrix.  x (B, T, C) -> y (B, T, C)."""
    HD, GD = (n * config.head_size for n in (config.n_heads, config.n_kv_heads))
    q, k, v = features(0, HD), features(HD, HD + GD), features(HD + GD, HD + 2 * GD)
    return chain(layer.linear("qkv_proj"), llama.attention_of(layer, config, i, key_mask, cache, q=q, k=k, v=v))


def mlp(layer: Scope, config: Config) -> Stage:
    """Llama's, from one matrix.  x (B, T, C) -> y (B, T, C)."""
    gate, up = features(0, config.inner), features(config.inner, 2 * config.inner)
    return chain(layer.linear("gate_up_proj"), llama.mlp_of(layer, config, gate=gate, up=up))


hidden = partial(llama.hidden, make_block=block)
logits = llama.logits

__all__ = ["EMBEDDING", "HEAD", "KINDS", "PREFIX", "TARGETS", "Config", "hidden", "logits", "modules", "norms"]
