"""flax.nnx.Module: how to make, read, fill and call layers."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .calls import first, more, no_padding_idx
from .constructor import Constructor
from .jax_layers import Arrays, How, JaxLayer, JaxLayers, as_numpy, dropout_as, dtype_of
from .wanted import NotAdoptedError, Wanted
from .words import role_of


class NNXLayers(JaxLayers):
    """The framework Flax nnx. What is an nnx.LoRAParam is trained; every nnx.Param where there is none."""

    name = "Flax nnx"
    frozen = "they are no nnx.LoRAParam"
    parts: Mapping[str, Callable[[Wanted], Any]]

    def __init__(self) -> None:
        super().__init__()
        self.parts = {
            "base": _base,
            "weight": lambda wanted: nnx.Param(_linear(wanted.in_, wanted.out).kernel[...]),
            "bias tensor": lambda wanted: nnx.Param(jnp.zeros(wanted.out, jnp.float32)),
            "A": lambda wanted: _linear(wanted.in_, wanted.rank),
            "B": lambda wanted: _linear(wanted.rank, wanted.out),
            "dtype": dtype_of,
            "device": lambda wanted: None,
            "key": lambda wanted: nnx.Rngs(0),
        }

    def finish(self, layer: Any, wanted: Wanted, constructor: Constructor) -> JaxLayer:
        if not isinstance(layer, nnx.Module):
            raise NotAdoptedError(f"{constructor.name} built a {type(layer).__name__}, expected a flax.nnx.Module")
        found = _leaves(layer)
        kinds = {path: "parameter" if isinstance(leaf, nnx.Param) else "buffer" for path, leaf in found.items()}
        factors = [path for path, leaf in found.items() if isinstance(leaf, nnx.LoRAParam)]
        trained = factors or [path for path, kind in kinds.items() if kind == "parameter"]
        arrays = as_numpy({path: _value(leaf) for path, leaf in found.items()})
        return JaxLayer(layer, arrays, kinds, frozenset(trained), _call)

    def computing_in(self, module: nnx.Module, dtype: str) -> nnx.Module:
        for _, part in nnx.iter_modules(module):
            for name, value in list(vars(part).items()):
                if role_of(name) == "dtype" and value is not None:
                    setattr(part, name, jnp.dtype(dtype))
        return module


def _call(module: nnx.Module, arrays: Arrays, x: Any, how: How) -> Any:
    graph, state = nnx.split(module)
    flat = [(path, _with(leaf, arrays.get(_name(path)))) for path, leaf in nnx.to_flat_state(state)]
    copy = nnx.merge(graph, nnx.from_flat_state(flat))
    nnx.reseed(copy, default=how.key, params=how.key, dropout=how.key)
    (copy.train if how.training else copy.eval)()
    with dropout_as(how, nnx.Dropout):
        return first(copy(x, **more(copy.__call__, how.training)), jax.Array)


def _leaves(module: nnx.Module) -> dict[str, Any]:
    """Every variable or array by its path; not the states of random numbers."""
    flat = nnx.to_flat_state(nnx.state(module))
    return {_name(path): leaf for path, leaf in flat if not isinstance(leaf, nnx.RngState)}


def _name(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


def _value(leaf: Any) -> Any:
    return leaf[...] if isinstance(leaf, nnx.Variable) else leaf


def _with(leaf: Any, array: Any) -> Any:
    """A new leaf with another array in it, or with the same."""
    array = _value(leaf) if array is None else array
    return leaf.replace(array) if isinstance(leaf, nnx.Variable) else array


def _base(wanted: Wanted) -> nnx.Module:
    """Flax's own layer."""
    if wanted.kind == "embedding":
        no_padding_idx(wanted)
        return nnx.Embed(wanted.in_, wanted.out, rngs=nnx.Rngs(0))
    return _linear(wanted.in_, wanted.out, wanted.bias)


def _linear(in_: int, out: int, bias: bool = False) -> nnx.Linear:
    return nnx.Linear(in_, out, use_bias=bias, rngs=nnx.Rngs(0))
