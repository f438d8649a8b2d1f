"""Gemma's config.json and tensors, as what differs from Llama's."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from . import _llama_config as llama
from ._config import ModelError, read_choice, read_integer, read_number
from ._llama_config import EMBEDDING, HEAD, NORM, PREFIX, TARGETS, modules
from ._rope_config import read_rope

KINDS: tuple[str, ...] = ("gemma", "gemma2", "gemma3_text")
_ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu_tanh"}  # the first files say gelu and mean tanh
_PATTERNS = {"gemma2": 2, "gemma3_text": 6}  # so many layers on, one sees all
_CAPS = {"gemma2": (50.0, 30.0)}  # of scores and of logits


@dataclass(frozen=True)
class Config(llama.Config):
    """Llama's, and has_four_norms: whether attention's and the MLP's outputs are normalised too."""

    has_four_norms: bool = False

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Config":
        """Read a config.json. Raises ModelError for a field that is missing or not supported."""
        kind = str(fields.get("model_type"))
        if fields.get("use_bidirectional_attention"):
            raise ModelError("config.json has use_bidirectional_attention, expected a causal model")
        name = "hidden_activation" if kind != "gemma" or fields.get("hidden_activation") else "hidden_act"
        activation = _ACTIVATIONS[read_choice(fields, name, "gelu_pytorch_tanh", tuple(_ACTIVATIONS))]
        if kind == "gemma":
            config = super().from_json({**fields, "hidden_act": "silu", "sliding_window": None})
            return replace(config, activation=activation, norm_offset=1.0)
        config = super().from_json({**fields, "hidden_act": "silu", **_layers(fields, kind)})
        caps = _CAPS.get(kind, (None, None))
        softcap, logit_cap = (_read_cap(fields, *named) for named in zip(_CAP_NAMES, caps, strict=True))
        if kind == "gemma3_text" and softcap is not None:
            raise ModelError(f"config.json has {_CAP_NAMES[0]}, which transformers leaves out of a Gemma 3: remove it")
        local = _rope(fields, "sliding_attention") if kind == "gemma3_text" else None
        return replace(
            config,
            activation=activation,
            norm_offset=1.0,
            score_scale=read_number(fields, "query_pre_attn_scalar", 256.0) ** -0.5,
            local_rope=None if local is None else read_rope(local, config.head_size, config.positions),
            has_four_norms=True,
            softcap=softcap,
            logit_cap=logit_cap,
        )


_CAP_NAMES = ("attn_logit_softcapping", "final_logit_softcapping")


def _read_cap(fields: Mapping[str, Any], name: str, default: float | None) -> float | None:
    """null means none, and a missing field the default."""
    return None if fields.get(name, default) is None else read_number(fields, name, default)


def _layers(fields: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The windows, and the angles of the layers that see all, in Llama's fields."""
    n_layers = read_integer(fields, "num_hidden_layers", most=1 << 16)
    pattern = read_integer(fields, "sliding_window_pattern", _PATTERNS[kind])
    kinds = [("sliding" if (i + 1) % pattern else "full") + "_attention" for i in range(n_layers)]
    window = read_integer(fields, "sliding_window", 4096)
    own = {"sliding_window": window, "layer_types": fields.get("layer_types") or kinds}
    return {**own, **(_rope(fields, "full_attention") if kind == "gemma3_text" else {})}


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
            if config.local_rope is not None:  # Gemma 3
                expected |= {f"model.layers.{i}.self_attn.{name}_norm.weight": (config.head_size,) for name in "qk"}
    return expected


__all__ = ["EMBEDDING", "HEAD", "KINDS", "NORM", "PREFIX", "TARGETS", "Config", "modules", "norms"]
