"""A classifier of texts: a pretrained model, one vector of features for a text, and a linear head.

    h      = model(tokens)                      (B, T, C)
    f      = features of h                      (B, C)
    logits = f W^T + b                          (B, n)        W (n, C), b (n,)

With pooling "mean", the features are the mean of h over the tokens that are not padding, as in sentence-transformers'
models. With pooling "pooler" they are tanh(pooler(h at the first token)), as in BERT. A language model has pooling
"last", h at the last token that is not padding, which has seen all others; its head is called score and has no b. Most
checkpoints have no head. A new head is small and random, and is trained in full with the adapter, as PEFT does when
task_type is SEQ_CLS.

Source: transformers 5.23.0, BertForSequenceClassification and GenericForSequenceClassification; Reimers and Gurevych,
"Sentence-BERT", 2019, section 3.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from .. import ops as reference
from ..adapters import Adapter, AdapterError, LoRA, LoRAConfig, Module
from ..ops import Pullback
from ..ops.compose import Stage, chain, renamed, reopen
from ..support.array import Array
from ..support.tensor_file import TensorFileError, json_object
from . import bert
from ._config import ModelError, read_number
from ._family import CausalFamily, Family
from ._huggingface import read_config, read_weights
from ._model import Model
from ._options import LossOptions
from ._pretrained import Pretrained
from ._scope import Scope
from ._weights import Weights, weights_of

_DECODERS: tuple[CausalFamily, ...] = Model.FAMILIES
_POOLINGS = ("mean", "pooler", "last")


class Classifier(Pretrained):
    """A frozen model and a head for `classes`. See `load_classifier`.

    attach gives a new adapter and a head: the checkpoint's head if it has one, a new one otherwise. full() trains
    everything in full. full([head]) trains the head alone, on frozen features. head: its name, "classifier" or "score".
    """

    FAMILIES: ClassVar[tuple[Family, ...]] = (bert, *_DECODERS)

    def __init__(
        self, about: Mapping[str, Any], base: Weights, classes: Sequence[str], pooling: str = "pooler"
    ) -> None:
        self.classes = tuple(classes)
        if isinstance(classes, str) or len(set(self.classes)) != len(self.classes) or len(self.classes) < 2:
            raise ValueError(f"classes is {str(classes)[:60]!r}, expected at least two different names")
        if pooling not in _POOLINGS:
            raise ValueError(f"pooling is {pooling!r}, expected one of {', '.join(_POOLINGS)}")
        is_decoder = any(about.get("model_type") in family.KINDS for family in _DECODERS)
        if is_decoder != (pooling == "last"):
            raise ValueError(f"pooling is {pooling!r}, expected 'last' for a language model, and for that alone")
        self.pooling, self.head = pooling, "score" if is_decoder else "classifier"
        super().__init__(about, base)

    def load_adapter(self, folder: str | Path, dtype: Any = None, allow_nonfinite: bool = False) -> LoRA:
        """The adapter in a folder that PEFT or `adapters.files.save` wrote, and its head. Raises AdapterError."""
        adapter = super().load_adapter(folder, dtype, allow_nonfinite)
        if f"{self.head}.weight" not in self.scope(adapter):
            raise AdapterError(f"{folder} has no {self.head}, and the model's checkpoint has none either")
        return adapter

    def scores(
        self,
        tokens: Array,
        adapter: Adapter | None = None,
        *,
        key_mask: Array | None = None,
        recompute: bool | None = None,
        masks: Any = None,
        ops: Any = reference,
    ) -> tuple[Array, Pullback]:
        """tokens (B, T) -> logits (B, n), one for each class, and their pullback. Options as in LossOptions."""
        scope = self.scope(adapter, ops, masks)
        y, pullback = chain(*self._stages(scope, tokens, key_mask, recompute))(tokens)
        trained = {} if adapter is None else adapter.parameters
        return y, reopen(pullback, y, pullback.inputs, [name for name in pullback.inputs if name not in trained])

    def _loss(
        self, scope: Scope, tokens: Array, labels: Array, options: LossOptions, wrt: tuple[str, ...]
    ) -> tuple[Array, Pullback]:
        judge = renamed(partial(options.ops.cross_entropy, labels=labels, count=options.count), {"logits": "x"})
        return chain(*self._stages(scope, tokens, options.key_mask, options.recompute), judge)(tokens)

    def merged(self, adapter: Adapter, sign: float = 1.0) -> "Classifier":
        """The model with the adapter in its weights and its head; sign = -1 takes it out again."""
        return self._with_base(weights_of(self._merge(adapter, sign), self.base.dtype))

    def _stages(self, scope: Scope, tokens: Array, key_mask: Array | None, recompute: bool | None) -> list[Stage]:
        if f"{self.head}.weight" not in scope:
            raise ValueError(f"the checkpoint has no {self.head}, expected an adapter that brings one")
        encode = self._hidden(scope, tokens, key_mask=key_mask, recompute=recompute)
        head, xp = scope.linear(self.head), tokens.__array_namespace__()
        place = xp.arange(tokens.shape[1])
        if self.pooling == "mean":
            return [encode, partial(scope.ops.masked_mean, mask=key_mask), head]
        if self.pooling == "pooler":
            first = xp.broadcast_to(place == 0, tokens.shape)  # the mean of one token is the token
            return [encode, partial(scope.ops.masked_mean, mask=first), bert.pooled(scope), head]
        seen = xp.ones(tokens.shape, dtype=xp.bool) if key_mask is None else key_mask
        last = xp.max(xp.where(seen, place, xp.zeros_like(place)), axis=1, keepdims=True)
        return [encode, partial(scope.ops.masked_mean, mask=place == last), head]

    def _rename(self, base: Weights) -> Weights:
        return base if self.pooling == "last" else base.rename(bert.name_of)

    def _modules(self, base: Weights) -> dict[str, Module]:
        modules = super()._modules(base)
        if self.pooling == "mean":
            modules.pop(bert.POOLER, None)
        elif self.pooling == "pooler" and bert.POOLER not in modules:
            raise ModelError(f"the checkpoint lacks {bert.POOLER}.weight, which pooling 'pooler' needs")
        for family in _DECODERS:  # the output layer has no part in it
            modules.pop(family.HEAD, None)
        name = f"{self.head}.weight"
        tensors = (name,) if self.pooling == "last" else (name, f"{self.head}.bias")
        head = Module("linear", (len(self.classes), self.config.width), tensors, output=True)
        if name in base and base.shape(name) != head.shape:
            found = base.shape(name)
            raise ModelError(f"{name} has shape {found}, expected {head.shape} for {len(self.classes)} classes")
        return {**modules, self.head: head}

    def _shapes(self, base: Weights) -> dict[str, tuple[int, ...]]:
        expected = super()._shapes(base)
        own = [] if f"{self.head}.weight" in base else self.modules[self.head].tensors
        return {name: shape for name, shape in expected.items() if name not in own}

    def _with_defaults(self, config: LoRAConfig) -> LoRAConfig:
        """The head is trained in full, as PEFT does for task_type SEQ_CLS."""
        saved = config.modules_to_save or ()
        fields = {
            **super()._with_defaults(config).as_json(),
            "modules_to_save": tuple(dict.fromkeys((*saved, self.head))),
        }
        return LoRAConfig.from_json({"task_type": "SEQ_CLS", **fields})

    def _initial(self, rng: np.random.Generator | None) -> Weights:
        """With a head: W ~ N(0, initializer_range^2), b = 0, as in transformers; all zeros without an rng."""
        if f"{self.head}.weight" in self.base:
            return self.base
        head, spread = self.modules[self.head], read_number(self.about, "initializer_range", 0.02)
        W = np.zeros(head.shape) if rng is None else spread * rng.standard_normal(head.shape)
        return self.base.with_arrays(dict(zip(head.tensors, (W, np.zeros(head.shape[0])), strict=False)))

    def _with_base(self, base: Weights) -> Self:
        return type(self)(self.about, base, self.classes, self.pooling)


def load_classifier(
    path: str | Path,
    classes: Sequence[str],
    dtype: Any = np.float32,
    pooling: str | None = None,
    allow_nonfinite: bool = False,
) -> Classifier:
    """A classifier on the model in a folder (config.json and safetensors). It computes in dtype.

    classes: their names, in the order of their indices. pooling: "mean" or "pooler" for a BERT; by default "mean" if
    the folder asks for it (sentence-transformers' 1_Pooling/config.json), "pooler" otherwise. "last" for a language
    model. Weights stored in dtype are memory-mapped. Raises ModelError for files that are not a model supported here.
    allow_nonfinite: as in `load`.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ModelError(
            f"{folder} is not a folder, expected a model with config.json and safetensors, to classify texts"
        )
    about = read_config(folder)
    if pooling is None:
        is_decoder = any(about.get("model_type") in family.KINDS for family in _DECODERS)
        pooling = "last" if is_decoder else _pooling(folder)
    return Classifier(about, read_weights(folder, dtype, allow_nonfinite), classes, pooling)


def _pooling(folder: Path) -> str:
    """The pooling in 1_Pooling/config.json; "pooler" if there is no such file."""
    path = folder / "1_Pooling" / "config.json"
    if not path.exists():
        return "pooler"
    try:
        found = json_object(path.read_bytes(), "it")
    except (OSError, TensorFileError) as error:
        raise ModelError(f"{path}: {error}") from None
    chosen = [name for name, value in found.items() if name.startswith("pooling_mode_") and value]
    if chosen != ["pooling_mode_mean_tokens"]:
        raise ModelError(f"{path} has {', '.join(chosen)[:80] or 'no pooling mode'}, expected pooling_mode_mean_tokens")
    return "mean"
