"""Llama, and Mistral, Qwen2 and Qwen3 as the differences from it that they are.

    x_0     = E[tokens]
    h_i     = x_i + Attention(RMSNorm(x_i))           rope on q and k, grouped key/value heads, causal
    x_(i+1) = h_i + MLP(RMSNorm(h_i))                 down(silu(gate) o up)
    logits  = RMSNorm(x_n) W_head^T                   W_head is E where the head is tied

Mistral and Qwen2 may have a sliding window; Qwen2 has biases on q, k and v; Qwen3 normalises each head of q and k
before rope. Biases and norms are there when their tensors are: the file says what it holds.

Derivation. A composition (`ops.compose`): pullbacks in reverse order. Each of the two residual sums passes dy on as it
is, and adds what comes back through its branch.

Source: Touvron et al., "LLaMA", 2023, section 2.2; Jiang et al., "Mistral 7B", 2023; Yang et al., "Qwen2" and "Qwen3"
technical reports, 2024 and 2025; Su et al. 2021 for rope; Llama 3.1's configuration for its frequencies.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..adapters import Module
from ..ops.compose import Stage, branch, chain, join_heads, recompute, residual, split_heads
from ..support.array import Array
from ..support.quoting import quote_value
from ._cache import Cache
from ._causal import cached_attention
from ._config import MOST, ModelError, field_of, number, padding, whole
from ._scope import Scope

KINDS = ("llama", "mistral", "qwen2", "qwen3")
TARGETS = ("q_proj", "v_proj")  # PEFT's, for these
PREFIX = "model."
EMBEDDING, HEAD, NORM = "model.embed_tokens", "lm_head", "model.norm"


@dataclass(frozen=True)
class Config:
    """What config.json says of the shapes and constants. windows: of each layer, None where all is seen."""

    n_layers: int
    width: int
    n_heads: int
    n_kv_heads: int
    head_size: int
    inner: int
    vocabulary: int
    positions: int
    eps: float
    frequencies: tuple[float, ...]
    windows: tuple[int | None, ...]
    padding_idx: int | None = None

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Config":
        """From a config.json. Raises ModelError for what is missing, or not to be had here."""
        n_layers, width, n_heads = (
            whole(found, name, most=most)
            for name, most in (("num_hidden_layers", MOST), ("hidden_size", 1 << 31), ("num_attention_heads", MOST))
        )
        head_size = whole(found, "head_dim", width // n_heads, most=MOST)
        positions = whole(found, "max_position_embeddings")
        field_of(found, "hidden_act", "silu", ("silu",))
        n_kv_heads = whole(found, "num_key_value_heads", n_heads)
        if n_heads % n_kv_heads or head_size % 2:
            said = f"{n_heads} heads on {n_kv_heads} key/value heads of size {head_size}"
            raise ModelError(f"config.json has {said}, expected a multiple, and an even size")
        return cls(
            n_layers=n_layers,
            width=width,
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            head_size=head_size,
            inner=whole(found, "intermediate_size"),
            vocabulary=whole(found, "vocab_size"),
            positions=positions,
            eps=number(found, "rms_norm_eps", 1e-6),
            frequencies=_frequencies(found, head_size, positions),
            windows=_windows(found, n_layers),
            padding_idx=padding(found),
        )


def modules(config: Config, tensors: Iterable[str]) -> dict[str, Module]:
    """The modules that an adapter may sit on, by path, with the shapes they must have."""
    C, F, HD, GD = config.width, config.inner, *(n * config.head_size for n in (config.n_heads, config.n_kv_heads))
    linear = {"self_attn.q_proj": (HD, C), "self_attn.k_proj": (GD, C), "self_attn.v_proj": (GD, C)}
    linear |= {"self_attn.o_proj": (C, HD), "mlp.gate_proj": (F, C), "mlp.up_proj": (F, C), "mlp.down_proj": (C, F)}

    def module(path: str, kind: str, shape: tuple[int, int], output: bool = False) -> Module:
        bias = (f"{path}.bias",) if f"{path}.bias" in tensors else ()
        return Module(kind, shape, (f"{path}.weight", *bias), output)

    found = {EMBEDDING: module(EMBEDDING, "embedding", (config.vocabulary, C))}
    for i in range(config.n_layers):
        found |= {
            path: module(path, "linear", shape)
            for path, shape in ((f"model.layers.{i}.{name}", s) for name, s in linear.items())
        }
    if f"{HEAD}.weight" in tensors:
        found[HEAD] = module(HEAD, "linear", (config.vocabulary, C), output=True)
    return found


def norms(config: Config, tensors: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the tensors that are no module's: those that must be there, and those that may."""
    expected: dict[str, tuple[int, ...]] = {f"{NORM}.weight": (config.width,)}
    for i in range(config.n_layers):
        names = ("input_layernorm", "post_attention_layernorm")
        expected |= {f"model.layers.{i}.{name}.weight": (config.width,) for name in names}
        heads = (f"model.layers.{i}.self_attn.{name}_norm.weight" for name in "qk")
        expected |= {name: (config.head_size,) for name in heads if name in tensors}
    return expected


def hidden(
    model: Scope, config: Config, *, key_mask: Array | None = None, recomputed: bool = False, cache: Cache | None = None
) -> Stage:
    """tokens (B, T) -> the last norm's output (B, T, C). key_mask (B, T) bool: True for tokens that are no padding.

    recomputed: keep one block's input for the backward in place of all that is in it. cache: of the keys and values of
    tokens before these, which is written to; there is no backward with one.
    """
    blocks = [block(model.at(f"model.layers.{i}"), config, i, key_mask, cache) for i in range(config.n_layers)]
    return chain(
        model.embedding(EMBEDDING, config.padding_idx),
        *(map(recompute, blocks) if recomputed else blocks),
        model.rms_norm(NORM, config.eps),
    )


def block(layer: Scope, config: Config, i: int, key_mask: Array | None, cache: Cache | None) -> Stage:
    """h = x + attention(norm(x)),  y = h + mlp(norm(h)).  x (B, T, C) -> y (B, T, C)."""
    attend = attention(layer.at("self_attn"), config, i, key_mask, cache)
    return chain(
        residual(chain(layer.rms_norm("input_layernorm", config.eps), attend)),
        residual(chain(layer.rms_norm("post_attention_layernorm", config.eps), mlp(layer.at("mlp")))),
    )


def attention(layer: Scope, config: Config, i: int, key_mask: Array | None, cache: Cache | None) -> Stage:
    """y = o(softmax(q k^T / sqrt(D)) v), causal, with rope on q and k.  x (B, T, C) -> y (B, T, C)."""
    start = 0 if cache is None else cache.length
    rope = partial(layer.ops.rope, start=start, frequencies=config.frequencies)

    def heads(name: str) -> list[Stage]:  # (B, T, C) -> (B, H, T, D), or G heads for k and v; Qwen3 norms q and k
        norm = [layer.rms_norm(f"{name}_norm", config.eps)] if f"{name}_norm.weight" in layer else []
        return [layer.linear(f"{name}_proj"), split_heads(config.head_size), *norm]

    attend = partial(cached_attention, layer.ops, i, start, cache, window=config.windows[i], key_mask=key_mask)
    q, k, v = chain(*heads("q"), rope), chain(*heads("k"), rope), chain(*heads("v"))
    return chain(branch(attend, q=q, k=k, v=v), join_heads, layer.linear("o_proj"))


def mlp(layer: Scope) -> Stage:
    """y = down(silu(gate(x)) o up(x)).  x (B, T, C) -> y (B, T, C)."""
    inner = branch(layer.ops.glu, gate=layer.linear("gate_proj"), up=layer.linear("up_proj"))
    return chain(inner, layer.linear("down_proj"))


def _frequencies(found: Mapping[str, Any], head_size: int, positions: int) -> tuple[float, ...]:
    """The angle per position of each pair: theta^(-2i / D), stretched as rope_scaling says."""
    rope = found.get("rope_parameters") or found.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise ModelError(f"config.json has {quote_value(rope)} for rope, expected an object")
    theta = number({**found, **rope}, "rope_theta", 10000.0)
    plain = [theta ** (-2.0 * i / head_size) for i in range(head_size // 2)]
    kind = field_of(rope, "rope_type", rope.get("type", "default"), ("default", "linear", "llama3"))
    if kind == "default":
        return tuple(plain)
    factor = number(rope, "factor")
    if kind == "linear":
        return tuple(f / factor for f in plain)
    positions = whole(rope, "original_max_position_embeddings", positions)
    return tuple(_llama3(f, factor, rope, positions) for f in plain)


def _llama3(frequency: float, factor: float, rope: Mapping[str, Any], positions: int) -> float:
    """Llama 3.1: what turns less than low_freq_factor times in the original context is slowed down by the factor, what
    turns more than high_freq_factor times is left alone, and between them it is interpolated."""
    low, high = number(rope, "low_freq_factor"), number(rope, "high_freq_factor")
    if not low < high:
        raise ModelError(f"config.json has low_freq_factor = {low} and high_freq_factor = {high}, expected low < high")
    turns = positions * frequency / (2.0 * math.pi)
    share = min(max((turns - low) / (high - low), 0.0), 1.0)
    return (1.0 - share) * frequency / factor + share * frequency


def _windows(found: Mapping[str, Any], n_layers: int) -> tuple[int | None, ...]:
    """Mistral has one for all layers; Qwen2 where use_sliding_window says so, from max_window_layers on."""
    if found.get("sliding_window") is None or not found.get("use_sliding_window", True):
        return (None,) * n_layers
    window, kinds = whole(found, "sliding_window"), found.get("layer_types")
    if kinds:
        if not isinstance(kinds, list) or len(kinds) != n_layers:
            raise ModelError(
                f"config.json has layer_types = {quote_value(kinds)}, expected one for each of {n_layers} layers"
            )
        return tuple(window if kind == "sliding_attention" else None for kind in kinds)
    first = whole(found, "max_window_layers", 0, least=0) if "use_sliding_window" in found else 0
    return tuple(window if i >= first else None for i in range(n_layers))
