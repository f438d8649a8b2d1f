"""A place in a model: the tensors whose names share a prefix, their adapter, and the ops that compute with them.

A model's functions take a Scope and return stages (see `ops.compose`), functions of one array that return y and its
pullback. The gradients have the tensors' full names. If the adapter trains a tensor in full, the adapter's array is
used in place of the base model's.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from .. import ops as reference
from ..adapters import Adapter
from ..ops import Pullback
from ..ops.compose import Stage, over_rows, renamed
from ..ops.namespace import rows
from ..support.array import Array
from ._weights import ReadOnce


class PlacedOps(ABC):
    """Ops that know their place in the model."""

    @abstractmethod
    def at(self, path: str) -> "PlacedOps":
        """The ops at this path."""


@dataclass(frozen=True)
class Scope:
    """base: {full name: array}. masks(path, x): the dropout mask on a module's input; None for no dropout. wrt: the
    full names whose gradients the pullback can give, None for all. Nothing is kept for the others."""

    base: Mapping[str, Array]
    adapter: Adapter | None = None
    ops: Any = reference
    masks: Callable[[str, Array], Array] | None = None
    prefix: str = ""
    wrt: frozenset[str] | None = None

    def at(self, name: str) -> "Scope":
        """The scope of this name within this one."""
        full = self.prefix + name
        ops = self.ops.at(full) if isinstance(self.ops, PlacedOps) else self.ops
        return replace(self, prefix=f"{full}.", ops=ops)

    def reading_once(self) -> "Scope":
        """The same scope, which reads each tensor once and keeps it."""
        return replace(self, base=ReadOnce(self.base))

    def __contains__(self, name: str) -> bool:
        full = self.prefix + name
        return full in self.base or full in self._trained

    def __getitem__(self, name: str) -> Array:
        full = self.prefix + name
        return self._trained[full] if full in self._trained else self.untrained(full)

    def untrained(self, full: str) -> Array:
        """The tensor of this full name that training does not change."""
        frozen = {} if self.adapter is None else self.adapter.frozen
        return frozen[full] if full in frozen else self.base[full]

    @property
    def _trained(self) -> Mapping[str, Array]:
        return {} if self.adapter is None else self.adapter.parameters

    def optional(self, name: str) -> Array | None:
        """The tensor of this name, or None."""
        return self[name] if self.__contains__(name) else None

    def linear(self, name: str, transposed: bool = False) -> Stage:
        """x (..., in) -> y (..., out) by the linear layer of this name, with its bias and adapter if there are any.

        transposed: the weight is stored (in, out), as in GPT-2.
        """
        return partial(self._linear, name, transposed)

    def _linear(self, name: str, transposed: bool, x: Array) -> tuple[Array, Pullback]:
        path, at = self.prefix + name, self.at(name)
        W, b = at["weight"], at.optional("bias")
        W = W.T if transposed else W
        if self.adapter is None or path not in self.adapter.places:
            layer = self._linear_by(path, at.ops, W, b, self._is_frozen(path))
        else:
            mask = rows(self.masks(path, x)) if self.masks else None
            layer = partial(self.adapter.linear, path, W=W, b=b, mask=mask, ops=at.ops)
        layer = renamed(over_rows(layer), {"W": f"{path}.weight", "b": f"{path}.bias"})
        return _transposed(layer, f"{path}.weight")(x) if transposed else layer(x)

    def _linear_by(self, path: str, ops: Any, W: Array, b: Array | None, frozen: bool) -> Stage:
        """A layer without A and B, by the table W, of which some rows may be trained for the module at this path."""
        tokens = None if self.adapter is None else self.adapter.tokens(path)
        if tokens is None:
            return partial(ops.linear, W=W, b=b, frozen=frozen)
        return tokens.stage(partial(ops.linear, b=b), "W", self._trained[tokens.name], W)

    def embedding(self, name: str, padding_idx: int | None = None) -> Stage:
        """ids (...) -> rows (..., D) of the table of this name, with its adapter if there is one."""
        path, at = self.prefix + name, self.at(name)

        def look_up(ids: Array) -> tuple[Array, Pullback]:
            E = at["weight"]
            if self.adapter is None:
                return at.ops.embedding(ids, E, padding_idx=padding_idx)
            layer = partial(self.adapter.embedding, path, padding_idx=padding_idx, ops=at.ops)
            if (tokens := self.adapter.tokens(path)) is not None:
                return tokens.stage(layer, "E", self._trained[tokens.name], E)(ids)
            return layer(ids, E)

        return renamed(look_up, {"E": f"{path}.weight"})

    def tied(self, head: str, name: str) -> Stage:
        """x (..., C) -> logits (..., V) by the table of the embedding of this name, and the head's adapter if any.

        If the adapter unties the two (as in PEFT), the base model's table is used even when the embedding is trained.
        """
        return partial(self._tied, head, name)

    def _tied(self, head: str, name: str, x: Array) -> tuple[Array, Pullback]:
        path, full = self.prefix + head, f"{self.prefix}{name}.weight"
        apart = full in self._trained and self.adapter is not None and self.adapter.unties
        E = self.untrained(full) if apart else self[f"{name}.weight"]
        frozen = apart or self._is_frozen(f"{self.prefix}{name}")
        own = self.adapter is not None and self.adapter.tokens(path) is not None
        layer = self._linear_by(path if own else self.prefix + name, self.at(name).ops, E, None, frozen)
        if self.adapter is not None and path in self.adapter.places:
            mask = rows(self.masks(path, x)) if self.masks else None
            layer = partial(self.adapter.linear, path, W=E, b=None, mask=mask, ops=self.at(head).ops)
        return renamed(over_rows(layer), {"W": f"{path}.weight" if apart else full})(x)

    def activation(self, name: str) -> Stage:
        """y = op(x), the elementwise op of this name."""
        return renamed(getattr(self.ops, name), {"z": "x"})

    def rms_norm(self, name: str, eps: float, offset: float = 0.0) -> Stage:
        """x (..., C) -> y (..., C), RMSNorm with the weight of this name. offset: what is added to the weight."""
        at = self.at(name)
        return renamed(
            lambda x: at.ops.rms_norm(x, at["weight"] + offset if offset else at["weight"], eps=eps),
            {"w": f"{self.prefix}{name}.weight"},
        )

    def layer_norm(self, name: str, eps: float) -> Stage:
        """x (..., C) -> y (..., C), LayerNorm with the weight and bias of this name."""
        at = self.at(name)
        return renamed(
            lambda x: at.ops.layer_norm(x, at["weight"], at["bias"], eps=eps),
            {"w": f"{self.prefix}{name}.weight", "b": f"{self.prefix}{name}.bias"},
        )

    def _is_frozen(self, path: str) -> bool:
        """Whether the gradients of this linear layer's own tensors are not needed."""
        return self.wrt is not None and self.wrt.isdisjoint((f"{path}.weight", f"{path}.bias"))


def _transposed(stage: Stage, weight: str) -> Stage:
    """The same layer, with the weight's gradient as (in, out), the way the weight is stored."""

    def run(x: Array) -> tuple[Array, Pullback]:
        y, pullback = stage(x)

        def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
            grads = pullback(dy, wrt=wrt)
            return grads | ({weight: grads[weight].T} if weight in grads else {})

        return y, Pullback(backward, y, pullback.inputs, pullback.frozen)

    return run
