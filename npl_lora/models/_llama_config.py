"""Llama's config.json and tensors: sizes, attention windows, and the names in the checkpoint."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

from ..adapters import Module
from ..support.quoting import quote_value
from ._causal import output_module
from ._config import MOST, ModelError, read_choice, read_integer, read_number, read_padding
from ._rope_config import Rope, read_rope

KINDS: tuple[str, ...] = ("llama", "mistral", "qwen2", "qwen3")
TARGETS: tuple[str, ...] = ("q_proj", "v_proj")  # PEFT's default for these kinds
PREFIX = "model."
EMBEDDING, HEAD, NORM = "model.embed_tokens", "lm_head", "model.norm"


@dataclass(frozen=True)
class Config:
    """Sizes and constants from config.json. windows: one for each layer, None where attention is not limited.

    The last six are Gemma's. score_scale: on q k^T; by default 1 / sqrt(D), times YaRN's factor on q and on k.
    norm_offset: what is added to a norm's weight. local_rope: the angles of the layers with a window. softcap and
    logit_cap: scores and logits are within plus and minus these.
    """

    n_layers: int
    width: int
    n_heads: int
    n_kv_heads: int
    head_size: int
    inner: int
    vocabulary: int
    positions: int
    eps: float
    rope: Rope
    windows: tuple[int | None, ...]
    padding_idx: int | None = None
    activation: str = "silu"
    score_scale: float | None = None
    norm_offset: float = 0.0
    local_rope: Rope | None = None
    softcap: float | None = None
    logit_cap: float | None = None

    def rope_of(self, i: int) -> Rope:
        """The angles of layer i."""
        return self.rope if self.local_rope is None or self.windows[i] is None else self.local_rope

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read a config.json. Raises ModelError for a field that is missing or not supported."""
        n_layers, width, n_heads = (
            read_integer(fields, name, most=most)
            for name, most in (("num_hidden_layers", MOST), ("hidden_size", 1 << 31), ("num_attention_heads", MOST))
        )
        head_size = read_integer(fields, "head_dim", width // n_heads, most=MOST)
        rope = read_rope(fields, head_size, read_integer(fields, "max_position_embeddings"))
        read_choice(fields, "hidden_act", "silu", ("silu",))
        n_kv_heads = read_integer(fields, "num_key_value_heads", n_heads)
        if n_heads % n_kv_heads or head_size % 2:
            sizes = f"{n_heads} heads on {n_kv_heads} key/value heads of size {head_size}"
            raise ModelError(f"config.json has {sizes}, expected a multiple, and an even size")
        return cls(
            n_layers=n_layers,
            width=width,
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            head_size=head_size,
            inner=read_integer(fields, "intermediate_size"),
            vocabulary=read_integer(fields, "vocab_size"),
            positions=rope.positions,
            eps=read_number(fields, "rms_norm_eps", 1e-6),
            rope=rope,
            score_scale=None if rope.factor == 1.0 else rope.factor**2 / head_size**0.5,
            windows=_windows(fields, n_layers),
            padding_idx=read_padding(fields),
        )


def modules(config: Config, tensors: Collection[str]) -> dict[str, Module]:
    """{path: Module} for every module that an adapter may sit on, with the shapes its tensors must have."""
    C, F, HD, GD = config.width, config.inner, *(n * config.head_size for n in (config.n_heads, config.n_kv_heads))
    linear = {"self_attn.o_proj": (C, HD), "mlp.down_proj": (C, F)}
    if "model.layers.0.self_attn.qkv_proj.weight" in tensors:  # Phi-3
        linear |= {"self_attn.qkv_proj": (HD + 2 * GD, C), "mlp.gate_up_proj": (2 * F, C)}
    else:
        linear |= {"self_attn.q_proj": (HD, C), "self_attn.k_proj": (GD, C), "self_attn.v_proj": (GD, C)}
        linear |= {"mlp.gate_proj": (F, C), "mlp.up_proj": (F, C)}

    def module(path: str, kind: str, shape: tuple[int, int]) -> Module:
        bias = (f"{path}.bias",) if f"{path}.bias" in tensors else ()
        return Module(kind, shape, (f"{path}.weight", *bias))

    result = {EMBEDDING: module(EMBEDDING, "embedding", (config.vocabulary, C))}
    for i in range(config.n_layers):
        result |= {
            path: module(path, "linear", shape)
            for path, shape in ((f"model.layers.{i}.{name}", s) for name, s in linear.items())
        }
    result[HEAD] = output_module(HEAD, EMBEDDING, (config.vocabulary, C), tensors)
    return result


def norms(config: Config, tensors: Collection[str]) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the tensors outside modules. Norms of q and k (Qwen3) are there if the checkpoint has them."""
    expected: dict[str, tuple[int, ...]] = {f"{NORM}.weight": (config.width,)}
    for i in range(config.n_layers):
        names = ("input_layernorm", "post_attention_layernorm")
        expected |= {f"model.layers.{i}.{name}.weight": (config.width,) for name in names}
        heads = (f"model.layers.{i}.self_attn.{name}_norm.weight" for name in "qk")
        expected |= {name: (config.head_size,) for name in heads if name in tensors}
    return expected


def _windows(fields: Mapping[str, Any], n_layers: int) -> tuple[int | None, ...]:
    """Mistral has one window for all layers. Qwen2 may have one, from layer max_window_layers on."""
    if fields.get("sliding_window") is None or not fields.get("use_sliding_window", True):
        return (None,) * n_layers
    window, kinds = read_integer(fields, "sliding_window"), fields.get("layer_types")
    if kinds:
        if not isinstance(kinds, list) or len(kinds) != n_layers:
            raise ModelError(
                f"config.json has layer_types = {quote_value(kinds)}, expected one for each of {n_layers} layers"
            )
        return tuple(window if kind == "sliding_attention" else None for kind in kinds)
    first = read_integer(fields, "max_window_layers", 0, least=0) if "use_sliding_window" in fields else 0
    return tuple(window if i >= first else None for i in range(n_layers))
