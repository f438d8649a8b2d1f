"""flax.linen.Module: how to make, read, fill and call layers. The input's size comes from the x of init."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core.meta import unbox
from flax.traverse_util import flatten_dict, unflatten_dict

from .calls import first, first_call_raised, more, no_padding_idx
from .constructor import Constructor
from .jax_layers import Arrays, How, JaxLayer, JaxLayers, as_numpy, dropout_as, dtype_of
from .wanted import NotAdoptedError, Wanted
from .words import role_of


class LinenLayers(JaxLayers):
    """The framework Flax linen. Freezing is left to the optimiser, so everything in "params" is trained."""

    name = "Flax linen"
    frozen = "they are in another collection than params"
    parts: Mapping[str, Callable[[Wanted], Any]]

    def __init__(self) -> None:
        super().__init__()
        self.parts = {
            "base": _base,
            "weight": lambda wanted: jax.random.normal(jax.random.key(0), (wanted.in_, wanted.out), jnp.float32),
            "bias tensor": lambda wanted: jnp.zeros(wanted.out, jnp.float32),
            "A": lambda wanted: nn.Dense(wanted.rank, use_bias=False),
            "B": lambda wanted: nn.Dense(wanted.out, use_bias=False),
            "dtype": dtype_of,
            "device": lambda wanted: None,
            "key": lambda wanted: jax.random.key(0),
        }

    def finish(self, layer: Any, wanted: Wanted, constructor: Constructor) -> JaxLayer:
        if not isinstance(layer, nn.Module):
            raise NotAdoptedError(f"{constructor.name} built a {type(layer).__name__}, expected a flax.linen.Module")
        how = self._how(training=False, own_dropout=True)
        x = jnp.zeros((1,), jnp.int32) if wanted.kind == "embedding" else jnp.zeros((1, wanted.in_), jnp.float32)
        more_words = more(layer.__call__, how.training, how.key)
        try:
            variables = unbox(layer.init(_keys(how), x, **more_words))
        except Exception as error:  # a stranger's call may raise anything
            raise NotAdoptedError(first_call_raised(error, wanted)) from None
        names = {_path(name): name for name, a in flatten_dict(variables).items() if hasattr(a, "shape")}
        arrays = as_numpy({path: flatten_dict(variables)[name] for path, name in names.items()})
        kinds = {path: "parameter" if name[0] == "params" else "buffer" for path, name in names.items()}
        trained = frozenset(path for path, kind in kinds.items() if kind == "parameter")

        def call(module: nn.Module, arrays: Arrays, x: Any, how: How) -> Any:
            variables = unflatten_dict({names[path]: a for path, a in arrays.items()})
            with dropout_as(how, nn.Dropout):
                y = module.apply(variables, x, rngs=_keys(how), **more(module.__call__, how.training, how.key))
            return first(y, jax.Array)

        return JaxLayer(layer, arrays, kinds, trained, call)

    def computing_in(self, module: nn.Module, dtype: str) -> nn.Module:
        names = [f.name for f in dataclasses.fields(module) if role_of(f.name) == "dtype"]
        return module.clone(**{name: jnp.dtype(dtype) for name in names if getattr(module, name) is not None})


def _base(wanted: Wanted) -> nn.Module:
    """Flax's own layer."""
    if wanted.kind == "embedding":
        no_padding_idx(wanted)
        return nn.Embed(wanted.in_, wanted.out)
    return nn.Dense(wanted.out, use_bias=wanted.bias)


def _keys(how: How) -> dict[str, Any]:
    return {"params": how.key, "dropout": how.key}


def _path(name: tuple[str, ...]) -> str:
    """Dense_0.kernel for ("params", "Dense_0", "kernel"); the collection stays in the paths of others."""
    return ".".join(name[1:] if name[0] == "params" else name)
