"""A part of a model: the tensors whose names begin alike, the adapter on them, and the ops that compute with them.

A model's functions take a Part and give y and its pullback, whose gradients bear the tensors' full names (and "x" for
what came in), as every op does. Where the adapter has a tensor of the same name, trained in full, it stands before the
base model's.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .. import ops as reference
from ..adapters import LoRA
from ..ops import Pullback
from ..ops._interface import renamed

Array = Any
Forward = Callable[..., tuple[Array, Pullback]]


@dataclass(frozen=True)
class Part:
    """base: {full name: array}. masks(path, x): the dropout mask on a module's input, or None in evaluation.

    transposed: whether linear weights are stored (in, out), as GPT-2's are.
    """

    base: Mapping[str, Array]
    adapter: LoRA | None = None
    ops: Any = reference
    masks: Callable[[str, Array], Array] | None = None
    prefix: str = ""
    transposed: bool = False

    def at(self, name: str) -> "Part":
        """The part within this one."""
        return replace(self, prefix=f"{self.prefix}{name}.")

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.base

    def __getitem__(self, name: str) -> Array:
        full = self.prefix + name
        trained = {} if self.adapter is None else self.adapter.parameters
        return trained[full] if full in trained else self.base[full]

    def optional(self, name: str) -> Array | None:
        return self[name] if self.__contains__(name) else None

    def linear(self, name: str, x: Array) -> tuple[Array, Pullback]:
        """The linear layer of this name, its bias if it has one, and the adapter if one sits there."""
        path, at = self.prefix + name, self.at(name)
        W, b = at["weight"], at.optional("bias")
        W = W.T if self.transposed else W
        if self.adapter is None:
            y, pullback = self.ops.linear(x, W, b)
        else:
            mask = self.masks(path, x) if self.masks and path in self.adapter.places else None
            y, pullback = self.adapter.linear(path, x, W, b, mask=mask, ops=self.ops)
        named = renamed(pullback, y, {"W": f"{path}.weight", "b": f"{path}.bias"})
        return y, _transposed(named, y, f"{path}.weight") if self.transposed else named

    def embedding(self, name: str, ids: Array, padding_idx: int | None = None) -> tuple[Array, Pullback]:
        """Rows of the table of this name, with the adapter if one sits there."""
        path, E = self.prefix + name, self.at(name)["weight"]
        if self.adapter is None:
            y, pullback = self.ops.embedding(ids, E, padding_idx=padding_idx)
        else:
            y, pullback = self.adapter.embedding(path, ids, E, padding_idx=padding_idx, ops=self.ops)
        return y, renamed(pullback, y, {"E": f"{path}.weight"})

    def rms_norm(self, name: str, x: Array, eps: float) -> tuple[Array, Pullback]:
        y, pullback = self.ops.rms_norm(x, self.at(name)["weight"], eps=eps)
        return y, renamed(pullback, y, {"w": f"{self.prefix}{name}.weight"})

    def layer_norm(self, name: str, x: Array, eps: float) -> tuple[Array, Pullback]:
        at = self.at(name)
        y, pullback = self.ops.layer_norm(x, at["weight"], at["bias"], eps=eps)
        return y, renamed(pullback, y, {"w": f"{self.prefix}{name}.weight", "b": f"{self.prefix}{name}.bias"})


class Gradients(dict[str, Array]):
    """Gradients by name, as pullbacks are called in turn. A tensor that is used twice gets the sum."""

    def __init__(self, wrt: Iterable[str]) -> None:
        super().__init__()
        self.wrt = frozenset(wrt)

    def through(self, pullback: Pullback, dy: Array, x: str | None = "x") -> Array:
        """Call a pullback for what is wanted of its inputs, and for x, whose gradient is handed on and not kept."""
        names = [name for name in pullback.inputs if name in self.wrt or name == x]
        found = pullback(dy, wrt=names)
        dx = found.pop(x) if x is not None else None
        for name, gradient in found.items():
            self[name] = self[name] + gradient if name in self else gradient
        return dx


def inputs_of(*pullbacks: Pullback) -> tuple[str, ...]:
    """What pullbacks can differentiate between them, each name once."""
    return tuple(dict.fromkeys(name for pullback in pullbacks for name in pullback.inputs))


def recomputed(forward: Forward, x: Array) -> tuple[Array, Pullback]:
    """The same value and gradients, for the memory of x alone: the backward computes the forward again.

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.
    """
    y, once = forward(x)

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        return forward(x)[1](dy, wrt=wrt)

    return y, Pullback(backward, y, inputs=once.inputs, frozen=once.frozen)


def _transposed(pullback: Pullback, y: Array, weight: str) -> Pullback:
    """The pullback of a layer whose weight is stored (in, out): its gradient is, too."""

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        grads = pullback(dy, wrt=wrt)
        return grads | ({weight: grads[weight].T} if weight in grads else {})

    return Pullback(backward, y, inputs=pullback.inputs, frozen=pullback.frozen)
