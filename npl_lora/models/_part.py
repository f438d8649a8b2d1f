"""A part of a model: the tensors whose names begin alike, the adapter on them, and the ops that compute with them.

A model's functions take a Part and give y and its pullback, whose gradients bear the tensors' full names (and "x" for
what came in), as every op does. Where the adapter has a tensor of the same name, trained in full, it stands before the
base model's.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from .. import ops as reference
from ..adapters import LoRA
from ..ops import Pullback
from ..ops._interface import renamed
from ..ops._namespace import rows
from ._weights import ReadOnce

Array = Any


class PlacedOps(ABC):
    """Ops that are told where in the model they are."""

    @abstractmethod
    def at(self, path: str) -> "PlacedOps":
        """The ops of the part at this path."""


@dataclass(frozen=True)
class Part:
    """base: {full name: array}. masks(path, x): the dropout mask on a module's input, or None in evaluation. wrt: the
    full names that gradients may be asked for, None for all: nothing is kept for the others."""

    base: Mapping[str, Array]
    adapter: LoRA | None = None
    ops: Any = reference
    masks: Callable[[str, Array], Array] | None = None
    prefix: str = ""
    wrt: frozenset[str] | None = None

    def at(self, name: str) -> "Part":
        """The part within this one."""
        full = self.prefix + name
        ops = self.ops.at(full) if isinstance(self.ops, PlacedOps) else self.ops
        return replace(self, prefix=f"{full}.", ops=ops)

    def reading_once(self) -> "Part":
        """The same, with tensors decoded once and kept as long as it is."""
        return replace(self, base=ReadOnce(self.base))

    def __contains__(self, name: str) -> bool:
        full = self.prefix + name
        return full in self.base or full in self._trained

    def __getitem__(self, name: str) -> Array:
        full = self.prefix + name
        return self._trained[full] if full in self._trained else self.base[full]

    @property
    def _trained(self) -> Mapping[str, Array]:
        return {} if self.adapter is None else self.adapter.parameters

    def optional(self, name: str) -> Array | None:
        return self[name] if self.__contains__(name) else None

    def linear(self, name: str, x: Array, transposed: bool = False) -> tuple[Array, Pullback]:
        """The linear layer of this name, its bias if it has one, and the adapter if one sits there.

        transposed: its weight is stored (in, out), as GPT-2's are.
        """
        path, at = self.prefix + name, self.at(name)
        W, b = at["weight"], at.optional("bias")
        W = W.T if transposed else W
        if self.adapter is None or path not in self.adapter.places:
            layer = partial(at.ops.linear, W=W, b=b, frozen=self._is_frozen(path))
        else:
            mask = rows(self.masks(path, x)) if self.masks else None
            layer = partial(self.adapter.linear, path, W=W, b=b, mask=mask, ops=at.ops)
        y, pullback = _over_tokens(layer, x)
        named = renamed(pullback, y, {"W": f"{path}.weight", "b": f"{path}.bias"})
        return y, _transposed(named, y, f"{path}.weight") if transposed else named

    def embedding(self, name: str, ids: Array, padding_idx: int | None = None) -> tuple[Array, Pullback]:
        """Rows of the table of this name, with the adapter if one sits there."""
        path, at = self.prefix + name, self.at(name)
        E = at["weight"]
        if self.adapter is None:
            y, pullback = at.ops.embedding(ids, E, padding_idx=padding_idx)
        else:
            y, pullback = self.adapter.embedding(path, ids, E, padding_idx=padding_idx, ops=at.ops)
        return y, renamed(pullback, y, {"E": f"{path}.weight"})

    def tied(self, name: str, x: Array) -> tuple[Array, Pullback]:
        """A head that shares an embedding's table: the base model's, whatever an adapter trains in that embedding's
        place, as PEFT has it (unless told to keep the two alike). Where all is trained in full, the two are one."""
        full = f"{self.prefix}{name}.weight"
        apart = full in self._trained and self.adapter is not None and self.adapter.unties
        E = self.base[full] if apart else self[f"{name}.weight"]
        layer = partial(self.at(name).ops.linear, W=E, frozen=apart or self._is_frozen(f"{self.prefix}{name}"))
        y, pullback = _over_tokens(layer, x)
        return y, renamed(pullback, y, {"W": full})

    def activation(self, name: str, x: Array) -> tuple[Array, Pullback]:
        """The op of this name on each entry."""
        y, pullback = getattr(self.ops, name)(x)
        return y, renamed(pullback, y, {"z": "x"})

    def _is_frozen(self, path: str) -> bool:
        """Whether nobody will ask for the gradients of a linear layer's own tensors."""
        return self.wrt is not None and self.wrt.isdisjoint((f"{path}.weight", f"{path}.bias"))

    def rms_norm(self, name: str, x: Array, eps: float) -> tuple[Array, Pullback]:
        at = self.at(name)
        y, pullback = at.ops.rms_norm(x, at["weight"], eps=eps)
        return y, renamed(pullback, y, {"w": f"{self.prefix}{name}.weight"})

    def layer_norm(self, name: str, x: Array, eps: float) -> tuple[Array, Pullback]:
        at = self.at(name)
        y, pullback = at.ops.layer_norm(x, at["weight"], at["bias"], eps=eps)
        return y, renamed(pullback, y, {"w": f"{self.prefix}{name}.weight", "b": f"{self.prefix}{name}.bias"})


def _over_tokens(layer: Callable[[Array], tuple[Array, Pullback]], x: Array) -> tuple[Array, Pullback]:
    """layer(x) with x (..., in) as one matrix of all tokens: NumPy multiplies a stack of matrices one by one, and short
    texts make for small ones."""
    xp, shape = x.__array_namespace__(), x.shape
    y, pullback = layer(rows(x))
    y = xp.reshape(y, (*shape[:-1], y.shape[-1]))

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        grads = pullback(rows(dy), wrt=wrt)
        return grads | ({"x": xp.reshape(grads["x"], shape)} if "x" in grads else {})

    return y, Pullback(backward, y, inputs=pullback.inputs, frozen=pullback.frozen)


def _transposed(pullback: Pullback, y: Array, weight: str) -> Pullback:
    """The pullback of a layer whose weight is stored (in, out): its gradient is, too."""

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        grads = pullback(dy, wrt=wrt)
        return grads | ({weight: grads[weight].T} if weight in grads else {})

    return Pullback(backward, y, inputs=pullback.inputs, frozen=pullback.frozen)
