"""LoRA as an adapter: its parameters, their initial values, what a module computes with them, and how they are merged.

An adapter is its configuration and its trainable arrays, {name: array}. The names are those of PEFT's files without
their common prefix: `<path>.lora_A.weight` (r, in) and `<path>.lora_B.weight` (out, r) for a linear layer,
`<path>.lora_embedding_A` (r, V) and `<path>.lora_embedding_B` (D, r) for an embedding; with lora_bias
`<path>.lora_B.bias` (out,), with DoRA `<path>.lora_magnitude_vector` (out,). Biases and modules that are
trained in full have the checkpoint's own names, and replace the base model's.

Source: Hu et al. 2021, sections 4.1 and 4.2; PEFT 0.21.2 for names and initial values.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from .. import ops as reference
from ..lora.init import factors, uniform
from ..lora.scale import lora_scale
from ..ops import Pullback
from ..ops.compose import Stage, renamed
from ..support.array import Array
from ..support.quoting import quote_value
from ._adapter import Adapter
from ._modules import Module
from ._targets import alpha_of, find_targets, is_in_full, rank_of
from ._tokens import Tokens, tokens_of
from .config import INITS, ConfigError, LoRAConfig

HEADS = ("classifier", "score")  # PEFT lists both names, and a classifier has one of them
_EMBEDDINGS = ("embed_tokens", "lm_head")  # PEFT's EMBEDDING_LAYER_NAMES


@dataclass(frozen=True)
class Factors:
    """The names of A and B of one module, and the scale of their product. bias: the name of B's bias, with lora_bias.
    m: the name of the rows' lengths, with DoRA."""

    A: str
    B: str
    scale: float
    bias: str | None = None
    m: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all that is trained in this place."""
        return tuple(name for name in (self.A, self.B, self.bias, self.m) if name is not None)


class LoRA(Adapter):
    """config: its LoRAConfig. parameters: {name: array}, all that training changes. places: {path: Factors}. frozen:
    {name: array}, tensors that came with the adapter in place of the model's. rows: {path: Tokens}, the tables of which
    some rows are trained."""

    unties = True  # as PEFT has it

    def __init__(
        self,
        config: LoRAConfig,
        parameters: Mapping[str, np.ndarray],
        places: Mapping[str, Factors],
        frozen: Mapping[str, np.ndarray] | None = None,
        rows: Mapping[str, Tokens] | None = None,
    ) -> None:
        super().__init__(parameters)
        self.frozen, self.rows = dict(frozen or {}), dict(rows or {})
        self.config, self.dropout = config, config.lora_dropout
        self.places: Mapping[str, Factors] = places

    def __repr__(self) -> str:
        count = sum(array.size for array in self.parameters.values())
        return f"LoRA(r={self.config.r}, {len(self.places)} modules, {count:,} parameters)"

    def with_parameters(self, parameters: Mapping[str, np.ndarray]) -> "LoRA":
        """The same adapter with other values."""
        return LoRA(self.config, parameters, self.places, self.frozen, self.rows)

    def with_dropout(self, p: float) -> "LoRA":
        """The same adapter with another lora_dropout, which is of the training alone."""
        return LoRA(replace(self.config, lora_dropout=p), self.parameters, self.places, self.frozen, self.rows)

    def linear(
        self, path: str, x: Array, W: Array, b: Array | None, mask: Array | None = None, ops: Any = reference
    ) -> tuple[Array, Pullback]:
        """y = x W^T + b + s ((mask o x) A^T) B^T, without the last term if no adapter sits at this path.

        With lora_bias, s b_B is added. With use_dora it is `ops.dora_linear`, which has no dropout here.
        """
        place = self.places.get(path)
        if place is None:
            return super().linear(path, x, W, b, mask, ops)
        A, B = self.parameters[place.A], self.parameters[place.B]
        if place.m is not None:
            if mask is not None:
                raise ConfigError("lora_dropout with use_dora is not supported here: train with lora_dropout 0")
            m = self.parameters[place.m]
            layer: Stage = partial(ops.dora_linear, W=W, A=A, B=B, m=m, scale=place.scale, b=b)
            return renamed(layer, {"A": place.A, "B": place.B, "m": place.m})(x)
        plain = partial(ops.lora_linear, W=W, A=A, B=B, scale=place.scale, mask=mask)
        if place.bias is None:
            layer = partial(plain, b=b)
        else:
            layer = with_bias(plain, self.parameters[place.bias], place.bias, place.scale, b)
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

    def tokens(self, path: str) -> Tokens | None:
        """Which rows of the table at this path are trained, if only some are."""
        return self.rows.get(path)

    def merged(self, path: str, W: Array, module: Module, sign: float = 1.0) -> Array:
        """W + sign s B A, for the weight or table at this path, stored as W is. With use_dora, its rows get the lengths
        m, which cannot be taken out again."""
        place = self.places.get(path)
        if place is None:
            return W
        A, B = self.parameters[place.A], self.parameters[place.B]
        turned = module.transposed or module.kind == "embedding"  # the table is (V, D) = (in, out)
        V = reference.merge(W, A, B, scale=sign * place.scale, fan_in_fan_out=turned)[0]
        if place.m is None:
            return V
        if sign != 1.0:
            raise ConfigError("use_dora is true: a merged DoRA cannot be taken out of the weights again")
        c = self.parameters[place.m] / row_norms(V.T if turned else V)
        return V * (c if turned else c[:, None])

    def merged_bias(self, path: str, b: Array | None, sign: float = 1.0) -> Array | None:
        """b + sign s b_B, for the bias at this path, or b without lora_bias."""
        place = self.places.get(path)
        if place is None or place.bias is None:
            return b
        if b is None:
            raise ConfigError(
                f"lora_bias is true, and {path} has no bias to merge it into; PEFT cannot merge this adapter either: "
                "use it beside the model"
            )
        return b + sign * place.scale * self.parameters[place.bias]


def places(config: LoRAConfig, modules: Mapping[str, Module]) -> dict[str, Factors]:
    """{path: Factors} of the modules that the adapter sits on. Raises ConfigError for targets that match nothing."""
    targets = with_tied(config, modules, find_targets(config, modules))
    return {path: _factors_at(config, path, modules[path]) for path in targets}


def with_tied(config: LoRAConfig, modules: Mapping[str, Module], paths: Collection[str]) -> list[str]:
    """These paths, and with ensure_weight_tying also the output layer or the embedding that one of them shares its
    table with. PEFT goes by the names that most models have."""
    found = set(paths)
    for path, module in modules.items() if config.other.get("ensure_weight_tying") else ():
        pair = {path, module.shares.removesuffix(".weight")} if module.shares else set()
        if any(one.rpartition(".")[2] in _EMBEDDINGS for one in pair & found):
            found |= pair
    return [path for path in modules if path in found]


def shapes(config: LoRAConfig, modules: Mapping[str, Module]) -> dict[str, tuple[int, ...]]:
    """{name: shape} of every A and B."""
    found: dict[str, tuple[int, ...]] = {}
    for path, place in places(config, modules).items():
        rank, (rows, columns) = rank_of(config, path), modules[path].shape
        width, height = (columns, rows) if modules[path].kind == "linear" else (rows, columns)
        found |= {place.A: (rank, width), place.B: (height, rank)}
        found |= {name: (height,) for name in (place.bias, place.m) if name is not None}
    for path, tokens in token_rows(config, modules).items():
        found[tokens.name] = (len(tokens.indices), modules[path].shape[1])
    return found


def token_rows(config: LoRAConfig, modules: Mapping[str, Module]) -> dict[str, Tokens]:
    """{path: Tokens} of the tables of which some rows are trained. Raises ConfigError."""
    return tokens_of(config, modules, places(config, modules))


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
    check_saved(config, modules, base)
    at = places(config, modules)
    parameters: dict[str, np.ndarray] = {}
    for path, place in at.items():
        A, B = _initialise(config, path, modules[path], rng, dtype)
        parameters |= {place.A: A, place.B: B}
        if place.bias is not None:
            parameters[place.bias] = np.zeros(len(B), dtype)
        if place.m is not None:
            W = np.asarray(base[modules[path].shares or f"{path}.weight"])
            V = (W.T if modules[path].transposed else W) + place.scale * (B @ A)
            parameters[place.m] = row_norms(V).astype(dtype)
    for name, start in names_in_full(config, modules, base).items():
        parameters[name] = np.array(base[start], dtype)
    some = token_rows(config, modules)
    for path, tokens in some.items():
        table = np.asarray(base[modules[path].shares or f"{path}.weight"])
        parameters[tokens.name] = np.array(table[list(tokens.indices)], dtype)
    return LoRA(config, parameters, at, rows=some)


def names_in_full(config: LoRAConfig, modules: Mapping[str, Module], base: Mapping[str, Any]) -> dict[str, str]:
    """{name: the base model's tensor that it starts as} of the tensors that are trained in full: those of modules to
    save, and biases. The two names differ for an output layer that has no table of its own."""
    saved = config.modules_to_save or ()
    shared = {f"{path}.weight": module.shares for path, module in modules.items() if module.shares}
    starts = {**{name: name for name in base}, **shared}
    whole = {name for name in starts if is_in_full(saved, name)}
    whole |= {f"{path}.weight" for path in with_tied(config, modules, [name.removesuffix(".weight") for name in whole])}
    found = {name: start for name, start in starts.items() if name in whole}
    biases = {name for name in base if name == "bias" or name.endswith(".bias")}
    if config.bias == "none":
        biases = set()
    elif config.bias == "lora_only":
        adapted = find_targets(config, modules)
        biases &= {name for path in adapted for name in modules[path].tensors}
    return found | {name: name for name in base if name in biases}


def check_saved(config: LoRAConfig, modules: Mapping[str, Module], base: Mapping[str, Any]) -> None:
    """Raise ConfigError for a name in modules_to_save that no module has. PEFT passes over it."""
    optional = HEADS if config.other.get("task_type") == "SEQ_CLS" else ()
    tensors = [*base, *(f"{path}.weight" for path in modules)]
    for name in config.modules_to_save or ():
        if name not in optional and not any(is_in_full((name,), tensor) for tensor in tensors):
            raise ConfigError(f"modules_to_save has {quote_value(name)}, which is the name of no module")


def _factors_at(config: LoRAConfig, path: str, module: Module) -> Factors:
    scale = lora_scale(rank_of(config, path), alpha_of(config, path), config.use_rslora)
    if module.kind == "embedding":
        if config.use_dora or config.lora_bias:
            name = "use_dora" if config.use_dora else "lora_bias"
            raise ConfigError(f"{name} is true, and {path} is an embedding: not supported here, only on linear layers")
        return Factors(f"{path}.lora_embedding_A", f"{path}.lora_embedding_B", scale)
    bias = f"{path}.lora_B.bias" if config.lora_bias else None
    m = f"{path}.lora_magnitude_vector" if config.use_dora else None
    return Factors(f"{path}.lora_A.weight", f"{path}.lora_B.weight", scale, bias, m)


def row_norms(V: Array) -> Array:
    """n_o = sqrt(sum_i V_oi^2)."""
    return np.sqrt(np.sum(V * V, axis=1))


def with_bias(layer: Callable[..., Any], bias: Array, name: str, scale: float, b: Array | None) -> Stage:
    """y = layer(x) + (b + s b_B): a linear layer with a bias of B. name: that of b_B's gradient, which is s db."""
    total = scale * bias if b is None else b + scale * bias

    def run(x: Array) -> tuple[Array, Pullback]:
        y, pullback = layer(x, b=total)

        def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
            grads = pullback(dy, wrt=(wrt - {name}) | ({"b"} if name in wrt else set()))
            return grads | ({name: scale * grads["b"]} if name in wrt else {})

        return y, Pullback(backward, y, (*pullback.inputs, name), pullback.frozen)

    return run


def _check_new(config: LoRAConfig) -> None:
    if config.init_lora_weights not in INITS:
        raise ConfigError(
            f"init_lora_weights is {quote_value(config.init_lora_weights)}, expected true, false or 'gaussian' for a "
            "new adapter"
        )
    check_trained(config)


def check_trained(config: LoRAConfig) -> None:
    """Raise ConfigError for what is computed here, and cannot be trained."""
    if config.use_dora and config.lora_dropout:
        raise ConfigError("lora_dropout with use_dora is not supported here: set lora_dropout to 0")
    if config.lora_alpha == 0 or 0 in config.alpha_pattern.values():
        raise ConfigError("lora_alpha is 0, so the adapter would change nothing: expected another number")
    if config.other.get("ensure_weight_tying"):
        raise ConfigError("ensure_weight_tying is true: not supported here in training; set it to false")


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
