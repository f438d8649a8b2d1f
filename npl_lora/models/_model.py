"""A causal language model: its logits, its loss, and how it is loaded."""

from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from .. import ops as reference
from ..adapters import Adapter, AdapterError, LoRA
from ..adapters.files import load_config
from ..ops import Pullback
from ..ops.compose import Stage, chain, reopen
from ..support.array import Array
from . import bert, gemma, gpt2, llama, phi3
from ._cache import Cache
from ._config import ModelError
from ._family import CausalFamily
from ._gguf import GGUF
from ._huggingface import read_config, read_weights
from ._options import LossOptions
from ._pretrained import Pretrained
from ._scope import Scope
from ._token_loss import token_loss
from ._weights import Weights, weights_of


class Model(Pretrained):
    """A causal language model with frozen weights. See `load`."""

    FAMILIES: ClassVar[tuple[CausalFamily, ...]] = (llama, gpt2, gemma, phi3)
    family: CausalFamily

    def logits(
        self,
        tokens: Array,
        adapter: Adapter | None = None,
        *,
        key_mask: Array | None = None,
        recompute: bool | None = None,
        ops: Any = reference,
    ) -> tuple[Array, Pullback]:
        """tokens (B, T) -> logits (B, T, V), for short inputs. Options as in LossOptions."""
        scope = self.scope(adapter, ops)
        run = self._hidden(scope, tokens, key_mask=key_mask, recompute=recompute)
        y, pullback = chain(run, self._head(scope))(tokens)
        trained = {} if adapter is None else adapter.parameters
        return y, reopen(pullback, y, pullback.inputs, [name for name in pullback.inputs if name not in trained])

    def next_logits(self, tokens: Array, adapter: Adapter | None, cache: Cache) -> Array:
        """tokens (B, T), which follow those in the cache -> the logits (B, V) of the next token."""
        scope = self.scope(adapter, wrt=())
        h, _ = self._hidden(scope, tokens, recompute=False, cache=cache)(tokens)
        cache.advance(tokens.shape[1])
        return self._head(scope)(h[:, -1])[0]

    def _loss(
        self, scope: Scope, tokens: Array, labels: Array, options: LossOptions, wrt: tuple[str, ...]
    ) -> tuple[Array, Pullback]:
        xp = labels.__array_namespace__()
        following = xp.concat((labels[:, 1:], xp.full((labels.shape[0], 1), -100, dtype=labels.dtype)), axis=1)
        judge = partial(
            token_loss,
            self._head(scope.reading_once()),
            self.config.vocabulary,
            following,
            ops=options.ops,
            wrt=("x", *wrt) if wrt else (),
            count=options.count,
        )
        encode = self._hidden(scope, tokens, key_mask=options.key_mask, recompute=options.recompute)
        return chain(encode, judge)(tokens)

    def load_adapter(self, folder: str | Path, dtype: Any = None, allow_nonfinite: bool = False) -> LoRA:
        """The adapter in a folder that PEFT or `adapters.files.save` wrote. Raises AdapterError."""
        if load_config(Path(folder)).other.get("task_type") == "SEQ_CLS":
            raise AdapterError(f"{folder} is the adapter of a classifier, expected that of a language model")
        return super().load_adapter(folder, dtype, allow_nonfinite)

    def merged(self, adapter: Adapter, sign: float = 1.0) -> "Model":
        """The model with the adapter in its weights, W + s B A; sign = -1 takes it out again."""
        arrays = self._merge(adapter, sign)
        table, own = f"{self.family.EMBEDDING}.weight", f"{self.family.HEAD}.weight"
        touched = table in adapter.parameters or self.family.EMBEDDING in adapter.places
        if own not in arrays and touched and adapter.unties:  # the head keeps the base model's table
            arrays[own] = self.scope(adapter).untrained(table)
        about = {**self.about, "tie_word_embeddings": own not in arrays, "vocab_size": len(arrays[table])}
        return Model(about, weights_of(arrays, self.base.dtype))

    def _head(self, scope: Scope) -> Stage:
        return self.family.logits(scope, self.config)

    def _tables(self) -> tuple[str, ...]:
        return self.family.EMBEDDING, self.family.HEAD

    def _with_base(self, base: Weights) -> Self:
        return type(self)(self.about, base)


def load(path: str | Path, dtype: Any = np.float32, allow_nonfinite: bool = False) -> Model:
    """The model in a folder (config.json and safetensors) or in a .gguf file. It computes in dtype.

    Weights stored in dtype are memory-mapped. Raises ModelError for files that are not a model supported here. A tensor
    that holds NaN or an infinity raises ModelError when it is first read, unless allow_nonfinite.
    """
    path = Path(path)
    if path.is_dir() and read_config(path).get("model_type") in bert.KINDS:
        raise ModelError(
            f"{path} is a BERT, which classifies texts and generates none: use load_classifier, or data in a .csv"
        )
    if path.is_dir():
        return Model(read_config(path), read_weights(path, dtype, allow_nonfinite))
    if path.suffix != ".gguf":
        raise ModelError(f"{path} is neither a folder nor a .gguf file")
    file = GGUF(path)
    return Model(file.config, file.weights(dtype, allow_nonfinite))
