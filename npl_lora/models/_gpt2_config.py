"""GPT-2's config.json and tensors: sizes, and the names in the checkpoint."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ..adapters import Module
from ..support.quoting import quote_value
from ._causal import output_module
from ._config import MOST, ModelError, read_choice, read_integer, read_number

KINDS: tuple[str, ...] = ("gpt2",)
TARGETS: tuple[str, ...] = ("c_attn",)  # PEFT's default
PREFIX = "transformer."  # the oldest checkpoints omit it
EMBEDDING, POSITIONS, HEAD, NORM = "transformer.wte", "transformer.wpe", "lm_head", "transformer.ln_f"


@dataclass(frozen=True)
class Config:
    """Sizes and constants from config.json."""

    n_layers: int
    width: int
    n_heads: int
    inner: int
    vocabulary: int
    positions: int
    eps: float

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Config":
        """Read a config.json. Raises ModelError for a field that is missing or not supported."""
        width, n_heads = read_integer(fields, "n_embd"), read_integer(fields, "n_head")
        read_choice(fields, "activation_function", "gelu_new", ("gelu_new", "gelu_pytorch_tanh"))
        if width % n_heads:
            raise ModelError(f"config.json has n_embd = {width} and n_head = {n_heads}, expected a multiple")
        for name, expected in (("scale_attn_weights", True), ("scale_attn_by_inverse_layer_idx", False)):
            if fields.get(name, expected) is not expected:
                raise ModelError(f"config.json has {name} = {quote_value(fields[name])}, expected {expected}")
        return cls(
            n_layers=read_integer(fields, "n_layer", most=MOST),
            width=width,
            n_heads=n_heads,
            inner=read_integer(fields, "n_inner", 4 * width),
            vocabulary=read_integer(fields, "vocab_size"),
            positions=read_integer(fields, "n_positions"),
            eps=read_number(fields, "layer_norm_epsilon", 1e-5),
        )


def modules(config: Config, tensors: Collection[str]) -> dict[str, Module]:
    """{path: Module} for every module that an adapter may sit on, with the shapes its tensors must have."""
    C, F = config.width, config.inner
    linear = {"attn.c_attn": (3 * C, C), "attn.c_proj": (C, C), "mlp.c_fc": (F, C), "mlp.c_proj": (C, F)}
    result = {EMBEDDING: Module("embedding", (config.vocabulary, C), (f"{EMBEDDING}.weight",))}
    result[POSITIONS] = Module("embedding", (config.positions, C), (f"{POSITIONS}.weight",))
    for i in range(config.n_layers):
        for name, shape in linear.items():
            path = f"{PREFIX}h.{i}.{name}"
            result[path] = Module("linear", shape, (f"{path}.weight", f"{path}.bias"), transposed=True)
    result[HEAD] = output_module(HEAD, EMBEDDING, (config.vocabulary, C), tensors)
    return result


def norms(config: Config, tensors: Collection[str]) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the tensors outside modules."""
    paths = [NORM, *(f"{PREFIX}h.{i}.ln_{n}" for i in range(config.n_layers) for n in (1, 2))]
    return {f"{path}.{name}": (config.width,) for path in paths for name in ("weight", "bias")}
