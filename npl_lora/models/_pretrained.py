"""What every model has: a kind, a configuration, frozen tensors, and adapters that fit it."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from .. import ops as reference
from ..adapters import Adapter, Full, LoRA, LoRAConfig, Module
from ..adapters import files as adapter_files
from ..adapters.full import full
from ..adapters.lora import attach
from ..ops import Pullback
from ..ops.compose import Stage, reopen
from ..support.array import Array
from ._config import ModelError
from ._family import Config, Family
from ._options import LossOptions
from ._scope import Scope
from ._weights import Weights


class Pretrained(ABC):
    """A model with frozen weights.

    kind: config.json's model_type. config: the family's configuration. base: {name: array}, the tensors that the model
    uses. modules: {path: Module}, where an adapter may sit. Raises ModelError if a tensor is missing or contradicts the
    configuration.
    """

    FAMILIES: ClassVar[tuple[Family, ...]]
    family: Family

    def __init__(self, about: Mapping[str, Any], base: Weights) -> None:
        self.kind = str(about.get("model_type"))
        families = {kind: family for family in self.FAMILIES for kind in family.KINDS}
        if self.kind not in families:
            raise ModelError(f"model_type is {self.kind[:40]!r}, expected one of {', '.join(families)}")
        self.family = families[self.kind]
        self.about = dict(about)
        self.config: Config = self.family.Config.from_json(about)
        if self.config.n_layers > len(base):  # before anything is allocated for each layer
            raise ModelError(f"config.json has {self.config.n_layers} layers, the checkpoint {len(base)} tensors")
        base, prefix, table = self._rename(base), self.family.PREFIX, f"{self.family.EMBEDDING}.weight"
        if table not in base and table.removeprefix(prefix) in base:
            base = base.rename(lambda name: prefix + name)
        self.modules: dict[str, Module] = self._modules(base)
        shapes = self._shapes(base)
        self.base = base.select(shapes)
        _check(self.base, shapes)

    def __repr__(self) -> str:
        count = sum(int(np.prod(self.base.shape(name))) for name in self.base)
        return f"{type(self).__name__}({self.kind}, {len(self.base)} tensors, {count:,} parameters)"

    def loss(
        self,
        tokens: Array,  # (B, T)
        labels: Array,  # (B, T) for a Model, (B,) for a Classifier
        adapter: Adapter | None = None,
        options: LossOptions | None = None,
        **named: Any,
    ) -> tuple[Array, Pullback]:
        """loss = the mean of -log p(label) over the labels that are not -100, and its pullback.

        A `Model`'s label is the token itself: each token is predicted from those before it, as in transformers, so the
        first label of a row is not used. A `Classifier`'s label is the index of the text's class. named: fields of
        LossOptions, which replace those in options. Raises TypeError for a name that is no field.
        """
        options = replace(options or LossOptions(), **named)
        trained = () if adapter is None else adapter.parameters
        wrt = tuple(trained if options.wrt is None else options.wrt)
        scope = self.scope(adapter, options.ops, options.masks, wrt)
        loss, pullback = self._loss(scope, tokens, labels, options, wrt)
        return loss, reopen(pullback, loss, wrt)

    @abstractmethod
    def _loss(
        self, scope: Scope, tokens: Array, labels: Array, options: LossOptions, wrt: tuple[str, ...]
    ) -> tuple[Array, Pullback]:
        """The loss, and a pullback that has the gradients of wrt at least."""

    @abstractmethod
    def _with_base(self, base: Weights) -> Self:
        """The same model with these tensors."""

    def attach(
        self, config: LoRAConfig | None = None, rng: np.random.Generator | int | None = None, dtype: Any = None
    ) -> LoRA:
        """A new adapter. target_modules are by default PEFT's. Raises ConfigError for targets that do not fit."""
        config, rng = self._with_defaults(LoRAConfig() if config is None else config), np.random.default_rng(rng)
        return attach(config, self.modules, self._initial(rng), rng, self.base.dtype if dtype is None else dtype)

    def full(
        self,
        modules: Sequence[str] | None = None,
        rng: np.random.Generator | int | None = None,
        dtype: Any = None,
    ) -> Full:
        """Full fine-tuning: the model's own tensors are trained. modules: train these alone, named as in
        modules_to_save; None trains all."""
        dtype = self.base.dtype if dtype is None else dtype
        return full(self._initial(np.random.default_rng(rng)), self.modules, modules, dtype)

    def load_adapter(self, folder: str | Path, dtype: Any = None, allow_nonfinite: bool = False) -> LoRA:
        """The adapter in a folder that PEFT or `adapters.files.save` wrote. Raises AdapterError, also for numbers that
        are not finite, unless allow_nonfinite."""
        dtype = self.base.dtype if dtype is None else dtype
        base, targets = self._initial(None), self.family.TARGETS
        return adapter_files.load(Path(folder), self.modules, base, dtype, allow_nonfinite, targets, self._tables())

    def _tables(self) -> tuple[str, ...]:
        """The paths of the modules that have a row for each token of the vocabulary."""
        return (self.family.EMBEDDING,)

    def scope(
        self, adapter: Adapter | None = None, ops: Any = reference, masks: Any = None, wrt: Iterable[str] | None = None
    ) -> Scope:
        """The whole model as a Scope, with this adapter."""
        return Scope(self.base, adapter, ops, masks, wrt=None if wrt is None else frozenset(wrt))

    def decode(self) -> Self:
        """The same model with all weights decoded and kept, which is faster: 4 bytes a parameter in float32. Raises
        ModelError for a tensor that is not finite."""
        if self.base.is_coded:
            return self._with_base(self.base.decode())
        self.check()
        return self

    def check(self) -> None:
        """Read every tensor that was not read yet, once. Raises ModelError for the first that is not finite."""
        self.base.check()

    def _rename(self, base: Weights) -> Weights:
        """The checkpoint's tensors under the names that the model uses."""
        return base

    def _modules(self, base: Weights) -> dict[str, Module]:
        return self.family.modules(self.config, base)

    def _shapes(self, base: Weights) -> dict[str, tuple[int, ...]]:
        """{name: shape} of all the tensors that the checkpoint must have."""
        expected = self.family.norms(self.config, base)
        for module in self.modules.values():
            expected |= module.shapes()
        return expected

    def _with_defaults(self, config: LoRAConfig) -> LoRAConfig:
        """The configuration of a new adapter, with the model's defaults filled in."""
        if config.target_modules is not None:
            return config
        return LoRAConfig.from_json({**config.as_json(), "target_modules": self.family.TARGETS})

    def _initial(self, rng: np.random.Generator | None) -> Weights:
        """The tensors that training starts from."""
        return self.base

    def _hidden(
        self, scope: Scope, tokens: Array, *, recompute: bool | None = None, cache: Any = None, **more: Any
    ) -> Stage:
        if tokens.shape[1] + (0 if cache is None else cache.length) > self.config.positions:
            raise ValueError(f"tokens have {tokens.shape[1]} positions, expected at most {self.config.positions}")
        more |= {} if cache is None else {"cache": cache}
        recompute = self.base.is_coded if recompute is None else recompute
        return self.family.hidden(scope, self.config, recomputed=recompute, **more)

    def _merge(self, adapter: Adapter, sign: float) -> dict[str, np.ndarray]:
        """{name: array}, all tensors with the adapter merged in, including those that it trains in full."""
        own = [name for path, module in self.modules.items() for name in (f"{path}.weight", *module.tensors)]
        names = dict.fromkeys([*self.base, *(name for name in own if name in adapter.parameters)])
        scope = self.scope(adapter)
        arrays = {name: np.array(scope[name]) for name in names}
        for path, module in self.modules.items():
            if (tokens := adapter.tokens(path)) is not None:
                W = arrays[f"{path}.weight"] if not module.shares else np.array(scope.untrained(module.shares))
                arrays[f"{path}.weight"] = tokens.put(adapter.parameters[tokens.name], W)
        for path in adapter.places:
            name, module = f"{path}.weight", self.modules[path]
            W = arrays[name] if name in arrays else np.array(scope.untrained(module.shares))
            with np.errstate(over="ignore", invalid="ignore"):  # `export` refuses what overflows
                arrays[name] = np.ascontiguousarray(adapter.merged(path, W, module, sign))
                if (b := adapter.merged_bias(path, arrays.get(f"{path}.bias"), sign)) is not None:
                    arrays[f"{path}.bias"] = b
        return arrays


def _check(base: Weights, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ModelError unless every tensor is there and has its shape."""
    for name, shape in shapes.items():
        if name not in base:
            raise ModelError(f"the checkpoint has no tensor {name} of a floating dtype")
        if base.shape(name) != shape:
            raise ModelError(f"{name} has shape {base.shape(name)}, expected {shape} by the configuration")
