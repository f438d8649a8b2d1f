"""BERT's config.json and tensors: sizes, and the names in the checkpoint."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ..adapters import Module
from ._config import MOST, ModelError, read_choice, read_integer, read_number, read_padding

KINDS: tuple[str, ...] = ("bert",)
TARGETS: tuple[str, ...] = ("query", "value")  # PEFT's default
PREFIX = "bert."  # a model saved without a head omits it
EMBEDDING, POSITIONS, TYPES = (f"bert.embeddings.{name}_embeddings" for name in ("word", "position", "token_type"))
NORM, POOLER = "bert.embeddings.LayerNorm", "bert.pooler.dense"


@dataclass(frozen=True)
class Config:
    """Sizes and constants from config.json."""

    n_layers: int
    width: int
    n_heads: int
    inner: int
    vocabulary: int
    positions: int
    types: int
    eps: float
    padding_idx: int | None = None

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Config":
        """Read a config.json. Raises ModelError for a field that is missing or not supported."""
        width, n_heads = read_integer(fields, "hidden_size"), read_integer(fields, "num_attention_heads")
        read_choice(fields, "hidden_act", "gelu", ("gelu",))
        read_choice(fields, "position_embedding_type", "absolute", ("absolute",))
        if width % n_heads:
            sizes = f"hidden_size = {width} and num_attention_heads = {n_heads}"
            raise ModelError(f"config.json has {sizes}, expected a multiple")
        if fields.get("is_decoder"):
            raise ModelError("config.json has is_decoder = true, expected an encoder")
        return cls(
            n_layers=read_integer(fields, "num_hidden_layers", most=MOST),
            width=width,
            n_heads=n_heads,
            inner=read_integer(fields, "intermediate_size"),
            vocabulary=read_integer(fields, "vocab_size"),
            positions=read_integer(fields, "max_position_embeddings"),
            types=read_integer(fields, "type_vocab_size", 2),
            eps=read_number(fields, "layer_norm_eps", 1e-12),
            padding_idx=read_padding(fields),
        )


def name_of(tensor: str) -> str:
    """The current name of a tensor. The oldest checkpoints call weight and bias of a norm gamma and beta."""
    return tensor.replace(".LayerNorm.gamma", ".LayerNorm.weight").replace(".LayerNorm.beta", ".LayerNorm.bias")


def modules(config: Config, tensors: Collection[str]) -> dict[str, Module]:
    """{path: Module} for every module that an adapter may sit on. The pooler is one if the checkpoint has it."""
    C, F = config.width, config.inner
    tables = {EMBEDDING: config.vocabulary, POSITIONS: config.positions, TYPES: config.types}
    linear = {f"attention.self.{name}": (C, C) for name in ("query", "key", "value")}
    linear |= {"attention.output.dense": (C, C), "intermediate.dense": (F, C), "output.dense": (C, F)}
    result = {path: Module("embedding", (rows, C), (f"{path}.weight",)) for path, rows in tables.items()}
    shapes = {f"{layer_path(i)}.{name}": shape for i in range(config.n_layers) for name, shape in linear.items()}
    shapes |= {POOLER: (C, C)} if f"{POOLER}.weight" in tensors else {}
    return result | {path: Module("linear", s, (f"{path}.weight", f"{path}.bias")) for path, s in shapes.items()}


def norms(config: Config, tensors: Collection[str]) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the tensors outside modules."""
    within = ("attention.output", "output")
    paths = [NORM, *(f"{layer_path(i)}.{name}.LayerNorm" for i in range(config.n_layers) for name in within)]
    return {f"{path}.{name}": (config.width,) for path in paths for name in ("weight", "bias")}


def layer_path(i: int) -> str:
    return f"bert.encoder.layer.{i}"
