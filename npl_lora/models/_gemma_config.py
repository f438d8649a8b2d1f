"""Gemma's config.json and tensors, as what differs from Llama's."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from . import _llama_config as llama
from ._config import ModelError, read_choice, read_integer, read_number
from ._llama_config import EMBEDDING, HEAD, NORM, PREFIX, TARGETS, modules
from ._rope_config import read_rope

KINDS: tuple[str, ...] = ("gemma", "gemma3_text")
_ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu_tanh"}  # the first files say gelu and mean tanh
_PATTERN = 6  # every sixth layer of Gemma 3 sees all


@dataclass(frozen=True)
class Config(llama.Config):
    """Llama's, and has_four_norms: whether attention's and the MLP's outputs are normalised too, as in Gemma 3."""

    has_four_norms: bool = False

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Config":
        """Read a config.json. Raises ModelError for a field that is missing or not supported."""
        is_third = fields.get("model_type") == "gemma3_text"
        name = "hidden_activation" if is_third or fields.get("hidden_activation") else "hidden_act"
        activation = read_choice(fields, name, "gelu_pytorch_tanh", tuple(_ACTIVATIONS))
        for cap in ("final_logit_softcapping", "attn_logit_softcapping"):
            if fields.get(cap) is not None:
                raise ModelError(f"config.json has {cap} = {fields[cap]!r}, which is Gemma 2's and not supported")
        if fields.get("use_bidirectional_attention"):
            raise ModelError("config.json has use_bidirectional_attention, expected a causal model")
        own = {**fields, "hidden_act": "silu", **(_layers(fields) if is_third else {"sliding_window": None})}
        config = super().from_json(own)
        if not is_third:
            return replace(config, activation=_ACTIVATIONS[activation], norm_offset=1.0)
        return replace(
            config,
            activation=_ACTIVATIONS[activation],
            norm_offset=1.0,
            score_scale=read_number(fields, "query_pre_attn_scalar", 256.0) ** -0.5,
            local_rope=read_rope(_rope(fields, "sliding_attention"), config.head_size, config.positions),
            has_four_norms=True,
        )


def _layers(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Gemma 3's windows and the angles of the layers that see all, in Llama's fields."""
    n_layers = read_integer(fields, "num_hidden_layers", most=1 << 16)
    pattern = read_integer(fields, "sliding_window_pattern", _PATTERN)
    kinds = [("sliding" if (i + 1) % pattern else "full") + "_attention" for i in range(n_layers)]
    window = read_integer(fields, "sliding_window", 4096)
    own = {"sliding_window": window, "layer_types": fields.get("layer_types") or kinds}
    return {**own, **_rope(fields, "full_attention")}


def _rope(fields: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The fields of rope of one kind of layers. Older files have two thetas and one scaling, for those that see all."""
    both = fields.get("rope_parameters")
    if isinstance(both, dict) and isinstance(both.get(kind), dict):
        return {"rope_parameters": both[kind], "rope_theta": _THETAS[kind][1]}
    name, theta = _THETAS[kind]
    theta = read_number(fields, name, theta)
    scaling = fields.get("rope_scaling") if kind == "full_attention" else None
    return {"rope_parameters": None, "rope_scaling": scaling, "rope_theta": theta}


_THETAS = {"full_attention": ("rope_theta", 1e6), "sliding_attention": ("rope_local_base_freq", 1e4)}


def norms(config: Config, tensors: Collection[str]) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the tensors outside modules."""
    expected = llama.norms(config, tensors)
    if config.has_four_norms:
        for i in range(config.n_layers):
            names = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
            expected |= {f"model.layers.{i}.{name}.weight": (config.width,) for name in names}
            expected |= {f"model.layers.{i}.self_attn.{name}_norm.weight": (config.head_size,) for name in "qk"}
    return expected


__all__ = ["EMBEDDING", "HEAD", "KINDS", "NORM", "PREFIX", "TARGETS", "Config", "modules", "norms"]
