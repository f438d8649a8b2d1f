"""A model: what kind it is, its configuration, and its frozen tensors."""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .. import ops as reference
from ..adapters import LoRA, LoRAConfig, Module
from ..adapters import files as adapter_files
from ..adapters.lora import attach
from ..ops import Pullback
from . import gpt2, llama
from ._cache import Cache
from ._compose import Array, chained, reopened
from ._config import ModelError
from ._head import token_loss
from ._part import Part
from ._weights import Weights, held
from .gguf import GGUF
from .huggingface import read_config, read_weights

_FAMILIES: dict[str, ModuleType] = {kind: family for family in (llama, gpt2) for kind in family.KINDS}


class Model:
    """A causal language model with frozen weights. See `load`.

    kind: config.json's model_type. config: the family's configuration. base: {tensor's name: array}. modules: {path:
    Module}, where an adapter may sit. Raises ModelError where tensors are missing, or contradict the configuration.
    """

    def __init__(self, about: Mapping[str, Any], base: Weights) -> None:
        self.kind = str(about.get("model_type"))
        if self.kind not in _FAMILIES:
            raise ModelError(f"model_type is {self.kind[:40]!r}, expected one of {', '.join(_FAMILIES)}")
        self.family: Any = _FAMILIES[self.kind]
        self.about = dict(about)
        self.config = self.family.Config.from_json(about)
        table = f"{self.family.EMBEDDING}.weight"
        bare = table not in base and table.removeprefix(self.family.PREFIX) in base
        self.base = base = base.prefixed(self.family.PREFIX) if bare else base
        self.modules: dict[str, Module] = self.family.modules(self.config, base)
        _check(self)

    def __repr__(self) -> str:
        count = sum(int(np.prod(self.base.shape(name))) for name in self.base)
        return f"Model({self.kind}, {len(self.base)} tensors, {count:,} parameters)"

    def attach(
        self, config: LoRAConfig | None = None, rng: np.random.Generator | int | None = None, dtype: Any = None
    ) -> LoRA:
        """A new adapter, which leaves the model as it is at first. target_modules: PEFT's usual ones unless given."""
        config = LoRAConfig() if config is None else config
        if config.target_modules is None:
            config = LoRAConfig.from_json({**config.as_json(), "target_modules": self.family.TARGETS})
        dtype = self.base.dtype if dtype is None else dtype
        return attach(config, self.modules, self.base, np.random.default_rng(rng), dtype)

    def load_adapter(self, folder: str | Path, dtype: Any = None) -> LoRA:
        """The adapter in a folder that PEFT or `save_adapter` wrote. Raises AdapterError."""
        return adapter_files.load(Path(folder), self.modules, self.base, self.base.dtype if dtype is None else dtype)

    def part(self, adapter: LoRA | None = None, ops: Any = reference, masks: Any = None) -> Part:
        return Part(self.base, adapter, ops, masks)

    def logits(
        self,
        tokens: Array,
        adapter: LoRA | None = None,
        *,
        key_mask: Array | None = None,
        recompute: bool | None = None,
        ops: Any = reference,
    ) -> tuple[Array, Pullback]:
        """tokens (B, T) -> logits (B, T, V), all of them: for short inputs. The loss does not need them."""
        part = self.part(adapter, ops)
        run = partial(self._hidden, part, key_mask=key_mask, recompute=recompute)
        y, pullback = chained([run, partial(self.family.head, part)], tokens)
        trained = {} if adapter is None else adapter.parameters
        return y, reopened(pullback, y, pullback.inputs, [name for name in pullback.inputs if name not in trained])

    def next_logits(self, tokens: Array, adapter: LoRA | None, cache: Cache) -> Array:
        """tokens (B, T) after those in the cache -> the logits (B, V) of the token that follows."""
        part = self.part(adapter)
        h, _ = self._hidden(part, tokens, recompute=False, cache=cache)
        cache.advance(tokens.shape[1])
        return self.family.head(part, h[:, -1])[0]

    def held(self) -> "Model":
        """The same model with its weights decoded once and kept, 4 bytes a parameter in float32: faster."""
        return Model(self.about, self.base.held()) if self.base.is_coded else self

    def loss(
        self,
        tokens: Array,
        labels: Array,
        adapter: LoRA | None = None,
        *,
        key_mask: Array | None = None,
        count: int | None = None,
        wrt: Iterable[str] | None = None,
        recompute: bool | None = None,
        masks: Any = None,
        ops: Any = reference,
    ) -> tuple[Array, Pullback]:
        """The mean of -log p(label) over the labels that count, and its pullback.

        tokens (B, T), labels (B, T): the token at each place, -100 where it does not count; each is predicted from
        those before it, as in transformers. key_mask (B, T) bool: True for tokens that are no padding. count: the
        labels that count in the whole batch, where this is part of one. wrt: the names that gradients will be asked
        for, by default all that the adapter trains. recompute: keep little for the backward and compute the forward
        again; by default where the weights are coded. masks(path, x): the dropout mask on a module's input.
        """
        part = self.part(adapter, ops, masks)
        trained = tuple(adapter.parameters) if adapter is not None else ()
        wrt = trained if wrt is None else tuple(wrt)
        xp = labels.__array_namespace__()
        following = xp.concat((labels[:, 1:], xp.full((labels.shape[0], 1), -100, dtype=labels.dtype)), axis=1)
        run = partial(self._hidden, part, key_mask=key_mask, recompute=recompute)
        judge = partial(
            token_loss,
            partial(self.family.head, part),
            self.config.vocabulary,
            following,
            ops=ops,
            wrt=("x", *wrt) if wrt else (),
            count=count,
        )
        loss, pullback = chained([run, judge], tokens)
        return loss, reopened(pullback, loss, wrt)

    def merged(self, adapter: LoRA, sign: float = 1.0) -> "Model":
        """The model with the adapter in its weights, W + s B A; with sign = -1, without it again."""
        arrays = {name: np.array(self.part(adapter)[name]) for name in self.base}
        for path in adapter.places:
            name = f"{path}.weight"
            arrays[name] = np.ascontiguousarray(adapter.merged(path, arrays[name], self.modules[path], sign))
        table, own = f"{self.family.EMBEDDING}.weight", f"{self.family.HEAD}.weight"
        touched = table in adapter.parameters or self.family.EMBEDDING in adapter.places
        if own not in arrays and touched:  # the head keeps the table that it shared
            arrays[own] = self.base[table]
        about = {**self.about, "tie_word_embeddings": own not in arrays}
        return Model(about, held(arrays, self.base.dtype))

    def _hidden(
        self,
        part: Part,
        tokens: Array,
        *,
        key_mask: Array | None = None,
        recompute: bool | None = None,
        cache: Cache | None = None,
    ) -> tuple[Array, Pullback]:
        if tokens.shape[1] + (0 if cache is None else cache.length) > self.config.positions:
            raise ValueError(f"tokens have {tokens.shape[1]} positions, expected at most {self.config.positions}")
        recompute = self.base.is_coded if recompute is None else recompute
        return self.family.hidden(part, self.config, tokens, key_mask=key_mask, recompute=recompute, cache=cache)


def load(path: str | Path, dtype: Any = np.float32) -> Model:
    """The model in a folder (config.json and safetensors) or in a .gguf file, to be computed with in dtype.

    Weights that are stored in dtype are mapped, not read. Raises ModelError, one sentence, for what cannot be a model.
    """
    path = Path(path)
    if path.is_dir():
        return Model(read_config(path), read_weights(path, dtype))
    if path.suffix != ".gguf":
        raise ModelError(f"{path} is neither a folder nor a .gguf file")
    file = GGUF(path)
    return Model(file.config, file.weights(dtype))


def _check(model: Model) -> None:
    """All tensors there, of the shapes that the configuration gives them."""
    expected = model.family.norms(model.config, model.base)
    for module in model.modules.values():
        for name in module.tensors:
            shape = module.shape if name.endswith("weight") else module.shape[:1]
            expected[name] = shape[::-1] if module.transposed else shape
    for name, shape in expected.items():
        if name not in model.base:
            raise ModelError(f"the checkpoint lacks {name}")
        if model.base.shape(name) != shape:
            raise ModelError(f"{name} has shape {model.base.shape(name)}, expected {shape} by the configuration")
