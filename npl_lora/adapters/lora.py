"""LoRA as an adapter: its parameters, their initial values, what a module computes with them, and how they are merged.

An adapter is its configuration and its trainable arrays, {name: array}. The names are those of PEFT's files without
their common prefix: `<path>.lora_A.weight` (r, in) and `<path>.lora_B.weight` (out, r) for a linear layer,
`<path>.lora_embedding_A` (r, V) and `<path>.lora_embedding_B` (D, r) for an embedding. Biases and modules that are
trained in full have the checkpoint's own names, and replace the base model's.

Source: Hu et al. 2021, sections 4.1 and 4.2; PEFT 0.21.2 for names and initial values.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from .. import ops as reference
from ..lora.init import factors, uniform
from ..lora.scale import lora_scale
from ..ops import Pullback
from ..ops.compose import renamed
from ..support.array import Array
from ..support.quoting import quote_value
from ._adapter import Adapter
from ._modules import Module
from ._targets import alpha_of, find_targets, is_saved, rank_of
from .config import INITS, ConfigError, LoRAConfig

HEADS = ("classifier", "score")  # PEFT lists both names, and a classifier has one of them


@dataclass(frozen=True)
class Factors:
    """The names of A and B of one module, and the scale of their product."""

    A: str
    B: str
    scale: float


class LoRA(Adapter):
    """config: its LoRAConfig. parameters: {name: array}, all that training changes. places: {path: Factors}."""

    unties = True  # as PEFT has it

    def __init__(self, config: LoRAConfig, parameters: Mapping[str, np.ndarray], places: Mapping[str, Factors]) -> None:
        super().__init__(parameters)
        self.config, self.dropout = config, config.lora_dropout
        self.places: Mapping[str, Factors] = places

    def __repr__(self) -> str:
        count = sum(array.size for array in self.parameters.values())
        return f"LoRA(r={self.config.r}, {len(self.places)} modules, {count:,} parameters)"

    def with_parameters(self, parameters: Mapping[str, np.ndarray]) -> "LoRA":
        """The same adapter with other values."""
        return LoRA(self.config, parameters, self.places)

    def linear(
        self, path: str, x: Array, W: Array, b: Array | None, mask: Array | None = None, ops: Any = reference
    ) -> tuple[Array, Pullback]:
        """y = x W^T + b + s ((mask o x) A^T) B^T, without the last term if no adapter sits at this path."""
        place = self.places.get(path)
        if place is None:
            return super().linear(path, x, W, b, mask, ops)
        A, B = self.parameters[place.A], self.parameters[place.B]
        layer = partial(ops.lora_linear, W=W, A=A, B=B, scale=place.scale, b=b, mask=mask)
        return renamed(layer, {"A": place.A, "B": place.B})(x)

    def embedding(
        self, path: str, ids: Array, E: Array, padding_idx: int | None = None, ops: Any = reference
    ) -> tuple[Array, Pullback]:
        """y = E[ids] + s A^T[ids] B^T, without the last term if no adapter sits at this path."""
        place = self.places.get(path)
        if place is None:
            return super().embedding(path, ids, E, padding_idx, ops)
        A, B = self.parameters[place.A], self.parameters[place.B]
        table = partial(ops.lora_embedding, E=E, A=A, B=B, scale=place.scale, padding_idx=padding_idx)
        return renamed(table, {"A": place.A, "B": place.B})(ids)

    def merged(self, path: str, W: Array, module: Module, sign: float = 1.0) -> Array:
        """W + sign s B A, for the weight or table at this path, stored as W is."""
        place = self.places.get(path)
        if place is None:
            return W
        A, B = self.parameters[place.A], self.parameters[place.B]
        turned = module.transposed or module.kind == "embedding"  # the table is (V, D) = (in, out)
        return reference.merge(W, A, B, scale=sign * place.scale, fan_in_fan_out=turned)[0]


def places(config: LoRAConfig, modules: Mapping[str, Module]) -> dict[str, Factors]:
    """{path: Factors} of the modules that the adapter sits on. Raises ConfigError for targets that match nothing."""
    return {path: _factors_at(config, path, modules[path]) for path in find_targets(config, modules)}


def shapes(config: LoRAConfig, modules: Mapping[str, Module]) -> dict[str, tuple[int, ...]]:
    """{name: shape} of every A and B."""
    found: dict[str, tuple[int, ...]] = {}
    for path, place in places(config, modules).items():
        rank, (rows, columns) = rank_of(config, path), modules[path].shape
        width, height = (columns, rows) if modules[path].kind == "linear" else (rows, columns)
        found |= {place.A: (rank, width), place.B: (height, rank)}
    return found


def attach(
    config: LoRAConfig,
    modules: Mapping[str, Module],
    base: Mapping[str, np.ndarray],
    rng: np.random.Generator,
    dtype: Any = np.float32,
) -> LoRA:
    """A new adapter for a model. base: the model's tensors; the adapter copies those that it trains in full.

    Raises ConfigError for a configuration that does not fit, or that no adapter can be trained with."""
    _check_new(config)
    at = places(config, modules)
    parameters: dict[str, np.ndarray] = {}
    for path, place in at.items():
        A, B = _initialise(config, path, modules[path], rng, dtype)
        parameters |= {place.A: A, place.B: B}
    for name in names_in_full(config, modules, base):
        parameters[name] = np.array(base[name], dtype)
    return LoRA(config, parameters, at)


def names_in_full(config: LoRAConfig, modules: Mapping[str, Module], base: Mapping[str, np.ndarray]) -> Iterator[str]:
    """The names of the tensors that are trained in full: those of modules to save, and biases. Raises ConfigError."""
    optional = HEADS if config.other.get("task_type") == "SEQ_CLS" else ()
    for name in config.modules_to_save or ():
        if name not in optional and not any(
            is_saved(replace(config, modules_to_save=(name,)), path) for path in modules
        ):
            raise ConfigError(f"modules_to_save has {quote_value(name)}, which is the name of no module")
    saved = {name for path, module in modules.items() if is_saved(config, path) for name in module.tensors}
    biases = {name for name in base if name == "bias" or name.endswith(".bias")}
    if config.bias == "none":
        biases = set()
    elif config.bias == "lora_only":
        adapted = find_targets(config, modules)
        biases &= {name for path in adapted for name in modules[path].tensors}
    return (name for name in base if name in saved or name in biases)


def _factors_at(config: LoRAConfig, path: str, module: Module) -> Factors:
    scale = lora_scale(rank_of(config, path), alpha_of(config, path), config.use_rslora)
    if module.kind == "embedding":
        return Factors(f"{path}.lora_embedding_A", f"{path}.lora_embedding_B", scale)
    return Factors(f"{path}.lora_A.weight", f"{path}.lora_B.weight", scale)


def _check_new(config: LoRAConfig) -> None:
    if config.init_lora_weights not in INITS:
        raise ConfigError(
            f"init_lora_weights is {quote_value(config.init_lora_weights)}, expected true, false or 'gaussian' for a "
            "new adapter"
        )
    if config.lora_alpha == 0 or 0 in config.alpha_pattern.values():
        raise ConfigError("lora_alpha is 0, so the adapter would change nothing: expected another number")


def _initialise(
    config: LoRAConfig, path: str, module: Module, rng: np.random.Generator, dtype: Any
) -> tuple[np.ndarray, np.ndarray]:
    """A and B before training. For an embedding it is A that is 0, and B ~ N(0, 1)."""
    rank, init, (rows, columns) = rank_of(config, path), config.init_lora_weights, module.shape
    if module.kind == "embedding":
        A = np.zeros((rank, rows)) if init else rng.standard_normal((rank, rows))
        return A.astype(dtype), rng.standard_normal((columns, rank)).astype(dtype)
    A, B = factors(rows, columns, rank, "gaussian" if init == "gaussian" else "kaiming", rng, dtype)
    return A, B if init else uniform((rows, rank), rank, rng, dtype)
