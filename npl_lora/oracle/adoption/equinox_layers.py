"""equinox.Module: how to make, read, fill and call layers. A call takes one vector, so the others go through vmap."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .calls import first, more, no_padding_idx
from .constructor import Constructor
from .jax_layers import Arrays, How, JaxLayer, JaxLayers, as_numpy, dropout_as, dtype_of
from .wanted import NotAdoptedError, Wanted


class EquinoxLayers(JaxLayers):
    """The framework Equinox. Freezing is left to a filter, so every floating array is trained."""

    name = "Equinox"
    frozen = "they are no floating arrays"
    parts: Mapping[str, Callable[[Wanted], Any]]

    def __init__(self) -> None:
        super().__init__()
        self.parts = {
            "base": _base,
            "weight": lambda wanted: _linear(wanted.in_, wanted.out).weight,
            "bias tensor": lambda wanted: jnp.zeros(wanted.out, jnp.float32),
            "A": lambda wanted: _linear(wanted.in_, wanted.rank),
            "B": lambda wanted: _linear(wanted.rank, wanted.out),
            "dtype": dtype_of,
            "device": lambda wanted: None,
            "key": lambda wanted: jax.random.key(0),
        }

    def finish(self, layer: Any, wanted: Wanted, constructor: Constructor) -> JaxLayer:
        if not isinstance(layer, eqx.Module):
            raise NotAdoptedError(f"{constructor.name} built a {type(layer).__name__}, expected an equinox.Module")
        found = {path: leaf for path, leaf in _leaves(layer) if eqx.is_array(leaf)}
        trained = frozenset(path for path, leaf in found.items() if eqx.is_inexact_array(leaf))
        return JaxLayer(layer, as_numpy(found), dict.fromkeys(found, "parameter"), trained, _call)


def _call(module: eqx.Module, arrays: Arrays, x: Any, how: How) -> Any:
    leaves = [arrays.get(path, leaf) for path, leaf in _leaves(module)]
    filled = jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(module), leaves)
    layer = eqx.nn.inference_mode(filled, value=not how.training)
    of_ids = jnp.issubdtype(x.dtype, jnp.integer)
    if x.ndim < (1 if of_ids else 2) or not _takes_one(layer, x, how):
        return _called(layer, x, how)
    rows, outer = x.reshape(-1) if of_ids else x.reshape(-1, x.shape[-1]), how
    how = replace(how, seen=[])
    keys = jax.random.split(how.key, len(rows))
    if how.mask is None:
        y = jax.vmap(lambda row, key: _called(layer, row, replace(how, key=key)))(rows, keys)
    else:
        each = how.mask.reshape(len(rows), -1)
        y = jax.vmap(lambda row, key, mask: _called(layer, row, replace(how, key=key, mask=mask)))(rows, keys, each)
    outer.seen.extend((len(rows), *shape) for shape in how.seen)
    return y.reshape(*(x.shape if of_ids else x.shape[:-1]), y.shape[-1])


def _called(layer: Any, x: Any, how: How) -> Any:
    with dropout_as(how, eqx.nn.Dropout):
        return first(layer(x, **more(layer.__call__, how.training, how.key)), jax.Array)


def _takes_one(layer: Any, x: Any, how: How) -> bool:
    """Whether a call takes one vector, or one id, and gives one vector."""
    one = jax.ShapeDtypeStruct(() if jnp.issubdtype(x.dtype, jnp.integer) else x.shape[-1:], x.dtype)
    try:
        return jax.eval_shape(lambda row: _called(layer, row, replace(how, mask=None, seen=[])), one).ndim == 1
    except NotAdoptedError:
        raise
    except Exception:  # whatever a stranger's call raises; it raises again if that is not the reason
        return False


def _leaves(module: eqx.Module) -> list[tuple[str, Any]]:
    """Every leaf by its path, in the tree's order."""
    found, _ = jax.tree_util.tree_flatten_with_path(module)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in found]


def _base(wanted: Wanted) -> eqx.Module:
    """Equinox's own layer."""
    if wanted.kind == "embedding":
        no_padding_idx(wanted)
        return eqx.nn.Embedding(wanted.in_, wanted.out, key=jax.random.key(0))
    return _linear(wanted.in_, wanted.out, wanted.bias)


def _linear(in_: int, out: int, bias: bool = False) -> eqx.nn.Linear:
    return eqx.nn.Linear(in_, out, use_bias=bias, key=jax.random.key(0))
