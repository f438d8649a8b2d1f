"""Llama, and Mistral, Qwen2 and Qwen3 as the differences from it that they are.

    x_0     = E[tokens]
    h_i     = x_i + Attention(RMSNorm(x_i))           rope on q and k, grouped key/value heads, causal
    x_(i+1) = h_i + MLP(RMSNorm(h_i))                 down(silu(gate) o up)
    logits  = RMSNorm(x_n) W_head^T                   W_head is E where the head is tied

Mistral and Qwen2 may have a sliding window; Qwen2 has biases on q, k and v; Qwen3 normalises each head of q and k
before rope. Biases and norms are there when their tensors are: the file says what it holds.

Derivation. A composition (`_compose`): pullbacks in reverse order. Each of the two residual sums passes dy on as it
is, and adds what comes back through its branch.

Source: Touvron et al., "LLaMA", 2023, section 2.2; Jiang et al., "Mistral 7B", 2023; Yang et al., "Qwen2" and "Qwen3"
technical reports, 2024 and 2025; Su et al. 2021 for rope; Llama 3.1's configuration for its frequencies.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from .._shown import shown
from ..adapters import Module
from ..ops import Pullback
from ._cache import Cache
from ._compose import Gradients, chained, inputs_of, recomputed, residual
from ._config import MOST, ModelError, field_of, number, padding, whole
from ._heads import joined, split
from ._part import Array, Part

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
    """tokens (B, T) -> the last norm's output (B, T, C). key_mask (B, T) bool: True for tokens that are no padding.

    recompute: keep one block's input for the backward in place of all that is in it. cache: of the keys and values of
    tokens before these, which is written to; there is no backward with one.
    """
    blocks = [partial(block, model.at(f"model.layers.{i}"), config, i, key_mask, cache) for i in range(config.n_layers)]
    stages = [partial(recomputed, run) for run in blocks] if recompute else blocks
    embed = partial(model.embedding, EMBEDDING, padding_idx=config.padding_idx)
    return chained([embed, *stages, partial(model.rms_norm, NORM, eps=config.eps)], tokens)


def block(
    part: Part, config: Config, i: int, key_mask: Array | None, cache: Cache | None, x: Array
) -> tuple[Array, Pullback]:
    """x (B, T, C) -> the same shape: attention and MLP, each behind a norm and beside the residual path."""
    look = partial(attention, part.at("self_attn"), config, i, key_mask, cache)
    think = partial(mlp, part.at("mlp"))
    norms = [partial(part.rms_norm, f"{name}_layernorm", eps=config.eps) for name in ("input", "post_attention")]
    branches = [partial(chained, [norm, branch]) for norm, branch in zip(norms, (look, think), strict=True)]
    return chained([partial(residual, branch) for branch in branches], x)


def mlp(part: Part, x: Array) -> tuple[Array, Pullback]:
    """y = down(silu(gate(x)) o up(x)). The gradient of x is the sum over gate and up."""
    gate, gate_pullback = part.linear("gate_proj", x)
    up, up_pullback = part.linear("up_proj", x)
    inner, glu_pullback = part.ops.glu(gate, up)
    y, down_pullback = part.linear("down_proj", inner)

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        grads = Gradients(wrt)
        d = glu_pullback(grads.through(down_pullback, dy))
        dx = grads.through(gate_pullback, d["gate"]) + grads.through(up_pullback, d["up"])
        return {**grads, "x": dx}

    return y, Pullback(backward, y, inputs_of(gate_pullback, up_pullback, down_pullback))


def attention(
    part: Part, config: Config, i: int, key_mask: Array | None, cache: Cache | None, x: Array
) -> tuple[Array, Pullback]:
    """y = o(softmax(rope(q) rope(k)^T / sqrt(D)) v), causal. The gradient of x is the sum over q, k and v."""
    start = 0 if cache is None else cache.length
    heads, pullbacks = {}, {}
    for name in "qkv":
        heads[name], pullbacks[name] = _heads(part, config, name, x, start)
    if cache is not None:
        heads["k"], heads["v"] = cache.extend(i, heads["k"], heads["v"])
    seen, attention_pullback = part.ops.attention(
        heads["q"], heads["k"], heads["v"], causal=True, offset=start, window=config.windows[i], key_mask=key_mask
    )
    y, out_pullback = part.linear("o_proj", joined(seen))

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        grads = Gradients(wrt)
        d = attention_pullback(split(grads.through(out_pullback, dy), config.head_size))
        dx = [grads.through(pullbacks[name], d[name]) for name in "qkv"]
        return {**grads, "x": dx[0] + dx[1] + dx[2]}

    return y, Pullback(backward, y, inputs_of(*pullbacks.values(), out_pullback))


def _heads(part: Part, config: Config, name: str, x: Array, start: int) -> tuple[Array, Pullback]:
    """One projection, cut into heads (B, heads, T, D): q and k normalised where the model does, and turned."""
    flat, linear_pullback = part.linear(f"{name}_proj", x)
    y, turned, norm_pullback = split(flat, config.head_size), None, None
    if f"{name}_norm.weight" in part:
        y, norm_pullback = part.rms_norm(f"{name}_norm", y, config.eps)
    if name != "v":
        y, turned = part.ops.rope(y, start=start, frequencies=config.frequencies)

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        grads = Gradients(wrt)
        dy = dy if turned is None else turned(dy)["x"]
        dy = dy if norm_pullback is None else grads.through(norm_pullback, dy)
        return {"x": grads.through(linear_pullback, joined(dy)), **grads}

    used = [p for p in (linear_pullback, norm_pullback) if p is not None]
    return y, Pullback(backward, y, inputs_of(*used))


def _frequencies(found: Mapping[str, Any], head_size: int, positions: int) -> tuple[float, ...]:
    """The angle per position of each pair: theta^(-2i / D), stretched as rope_scaling says."""
    rope = found.get("rope_parameters") or found.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise ModelError(f"config.json has {shown(rope)} for rope, expected an object")
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
                f"config.json has layer_types = {shown(kinds)}, expected one for each of {n_layers} layers"
            )
        return tuple(window if kind == "sliding_attention" else None for kind in kinds)
    first = whole(found, "max_window_layers", 0, least=0) if "use_sliding_window" in found else 0
    return tuple(window if i >= first else None for i in range(n_layers))
