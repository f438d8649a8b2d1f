"""The modules and tensors of a language model, from its config.json alone.

A checkpoint decides by its tensors whether there are biases, an output layer of its own, and norms of q and k. Without
a checkpoint, the fields of config.json decide, with the defaults of transformers.

Source: transformers 5.23.0, the configuration and model files of each kind.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..adapters import Module
from ._config import ModelError
from ._gguf import GGUF
from ._huggingface import read_config
from ._model import Model

_MOST_LAYERS = 1 << 10  # no checkpoint bounds them here, and something is made for each


@dataclass(frozen=True)
class Plan:
    """kind: config.json's model_type. config: the family's configuration. modules: {path: Module}. shapes: {name:
    shape} of all tensors. head, embedding: the paths of the output layer and of the table. targets: PEFT's default."""

    kind: str
    config: Any
    modules: Mapping[str, Module]
    shapes: Mapping[str, tuple[int, ...]]
    head: str
    embedding: str
    targets: tuple[str, ...]


def plan(path: str | Path) -> Plan:
    """What a folder with a config.json, or a .gguf file, will hold. No weight is read. Raises ModelError."""
    path = Path(path)
    about = GGUF(path).config if path.suffix == ".gguf" else read_config(path)
    kind = about.get("model_type")
    families = {known: family for family in Model.FAMILIES for known in family.KINDS}
    if not isinstance(kind, str) or kind not in families:
        raise ModelError(f"model_type is {str(kind)[:40]!r}, expected one of {', '.join(families)}")
    family = families[kind]
    config: Any = family.Config.from_json(about)
    if config.n_layers > _MOST_LAYERS:
        raise ModelError(f"config.json has {config.n_layers:,} layers, expected at most {_MOST_LAYERS:,}")
    names = _Names(kind, about)
    modules = family.modules(config, names)
    shapes = family.norms(config, names)
    for module in modules.values():
        shapes |= module.shapes()
    return Plan(kind, config, modules, shapes, family.HEAD, family.EMBEDDING, family.TARGETS)


class _Names(Collection[str]):
    """The names of a checkpoint's optional tensors: biases, norms of q and k, fused weights, and the output layer."""

    def __init__(self, kind: str, about: Mapping[str, Any]) -> None:
        self._kind, self._about = kind, about

    def __contains__(self, name: object) -> bool:
        (parent, _, module), is_bias = str(name).rpartition(".")[0].rpartition("."), str(name).endswith(".bias")
        if name == "lm_head.weight":
            return not self._about.get("tie_word_embeddings", self._kind == "gpt2" or self._kind.startswith("gemma"))
        if module in ("q_norm", "k_norm"):
            return self._kind in ("qwen3", "gemma3_text")
        if not is_bias:
            return module in ("qkv_proj", "gate_up_proj") and self._kind == "phi3"
        if parent.endswith(".mlp"):
            return self._kind == "llama" and bool(self._about.get("mlp_bias"))
        if not parent.endswith(".self_attn"):
            return False
        if self._kind == "qwen2":
            return module != "o_proj"
        return self._kind not in ("mistral", "phi3") and bool(self._about.get("attention_bias"))

    def __iter__(self) -> Iterator[str]:
        raise TypeError("only names that are asked for are known")

    def __len__(self) -> int:
        raise TypeError("only names that are asked for are known")
