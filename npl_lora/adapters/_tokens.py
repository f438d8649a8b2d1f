"""trainable_token_indices: some rows of a table are trained in full, and the others stay as they are.

    E' = E, with row i_k replaced by d_k        d (n, D) is trained, i (n,) are the tokens

Derivation. E' takes row i_k from d_k and no other, so dd_k = dE'_(i_k).

Source: PEFT 0.21.2, tuners/trainable_tokens/layer.py for the forward, update_layer's names, and _set_trainable and
set_additional_trainable_modules in utils/other.py for which tables these are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ops import Pullback
from ..ops.compose import Stage
from ..support.array import Array
from ..support.quoting import quote_value
from ._modules import Module
from .config import ConfigError, LoRAConfig


@dataclass(frozen=True)
class Tokens:
    """The name of d (n, D), and the indices of its rows in the table."""

    name: str
    indices: tuple[int, ...]

    def put(self, d: Array, E: Array) -> Array:
        """E'."""
        new = np.array(E)
        new[list(self.indices)] = d
        return new

    def stage(self, layer: Callable[..., Any], table: str, d: Array, E: Array) -> Stage:
        """layer(x, E') as a stage. table: what the layer calls E. d's gradient has its name."""

        def run(x: Array) -> tuple[Array, Pullback]:
            y, pullback = layer(x, **{table: self.put(d, E)})

            def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
                grads = pullback(dy, wrt=(wrt - {self.name}) | ({table} if self.name in wrt else set()))
                return grads | ({self.name: grads[table][list(self.indices)]} if self.name in wrt else {})

            return y, Pullback(backward, y, (*pullback.inputs, self.name), pullback.frozen)

        return run


def token_name(path: str) -> str:
    """The name of d for the table at this path, as in PEFT's files."""
    return f"{path}.token_adapter.trainable_tokens_delta"


def tokens_of(config: LoRAConfig, modules: Mapping[str, Module], adapted: Mapping[str, Any]) -> dict[str, Tokens]:
    """{path: Tokens} of the tables of which some rows are trained, without an output layer that shares one of them.

    Raises ConfigError."""
    wanted = config.other.get("trainable_token_indices")
    if wanted is None:
        return {}
    if not isinstance(wanted, Mapping):  # the first module is the token embedding
        wanted = {next(path for path, module in modules.items() if module.kind == "embedding"): wanted}
    found: dict[str, Tokens] = {}
    for name, indices in wanted.items():
        paths = [path for path, module in modules.items() if path.endswith(name) and _is_table(module)]
        if not paths:
            raise ConfigError(
                f"trainable_token_indices has {quote_value(name)}, which is the name of no embedding or output layer"
            )
        for path in paths:
            found[path] = Tokens(token_name(path), _checked(indices, modules[path]))
            if path in adapted:
                raise ConfigError(f"trainable_token_indices and target_modules both have {path}: not supported here")
    for path in adapted:
        if modules[path].shares.removesuffix(".weight") in found:
            raise ConfigError(
                f"target_modules has {path}, and trainable_token_indices the table that it shares: not supported here"
            )
    return _without_shared(found, modules)


def _without_shared(found: Mapping[str, Tokens], modules: Mapping[str, Module]) -> dict[str, Tokens]:
    """Without an output layer that has the same rows of the table that it shares."""
    kept = dict(found)
    for path in found:
        source = modules[path].shares.removesuffix(".weight")
        if source in found:
            if found[source].indices != found[path].indices:
                raise ConfigError(
                    f"trainable_token_indices has other tokens for {path} than for {source}, whose table it shares: "
                    "not supported here"
                )
            del kept[path]
    return kept


def _is_table(module: Module) -> bool:
    return module.kind == "embedding" or module.output


def _checked(indices: Any, module: Module) -> tuple[int, ...]:
    rows = module.shape[0]
    right = isinstance(indices, list | tuple) and all(type(i) is int and 0 <= i < rows for i in indices)
    if not right or not indices or len(set(indices)) < len(indices):
        raise ConfigError(
            f"trainable_token_indices has {quote_value(indices)}, expected different tokens from 0 to {rows - 1:,}"
        )
    return tuple(indices)
