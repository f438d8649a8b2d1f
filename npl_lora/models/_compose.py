"""How parts of a model are put together, forward and backward: one after another, beside a residual path, or forgotten
and computed again.

A stage is a function of one array that gives y and its pullback. The gradient of what came in is called "x", those of
tensors bear their full names.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..ops import Pullback

Array = Any
Stage = Callable[[Array], tuple[Array, Pullback]]


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


def chained(stages: Sequence[Stage], x: Array) -> tuple[Array, Pullback]:
    """y = the last stage of ... of the first stage of x.

    The backward goes through the stages in reverse, and no further down than to the first that somebody asks about.
    """
    pullbacks: list[Pullback] = []
    for stage in stages:
        x, pullback = stage(x)
        pullbacks.append(pullback)

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        grads = Gradients(wrt)
        tensors = wrt - {"x"}
        asked = [i for i, p in enumerate(pullbacks) if tensors & set(p.inputs) or (i == 0 and "x" in wrt)]
        for i in range(len(pullbacks) - 1, min(asked, default=len(pullbacks)) - 1, -1):
            dy = grads.through(pullbacks[i], dy, "x" if i > asked[0] else None)
        return grads

    later = (name for name in inputs_of(*pullbacks[1:]) if name != "x")
    return x, Pullback(backward, x, inputs=tuple(dict.fromkeys((*pullbacks[0].inputs, *later))))


def residual(stage: Stage, x: Array) -> tuple[Array, Pullback]:
    """y = x + stage(x): the gradient of x is dy itself, and what comes back through the stage."""
    branch, pullback = stage(x)
    y = x + branch

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        grads = pullback(dy, wrt=wrt)
        return grads | ({"x": dy + grads["x"]} if "x" in wrt else {})

    return y, Pullback(backward, y, inputs=pullback.inputs)


def added(results: Sequence[tuple[Array, Pullback]]) -> tuple[Array, Pullback]:
    """y = the sum of what was looked up: dy goes to each table. Nothing came in that has a gradient."""
    first, *others = (part for part, _ in results)
    y, pullbacks = sum(others, start=first), [pullback for _, pullback in results]

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        grads = Gradients(wrt)
        for pullback in pullbacks:
            grads.through(pullback, dy, None)
        return grads

    return y, Pullback(backward, y, inputs_of(*pullbacks))


def recomputed(stage: Stage, x: Array) -> tuple[Array, Pullback]:
    """The same value and gradients, for the memory of x alone: the backward computes the forward again.

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.
    """
    y, once = stage(x)
    inputs = once.inputs

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        return stage(x)[1](dy, wrt=wrt)

    return y, Pullback(backward, y, inputs=inputs)


def reopened(pullback: Pullback, y: Array, inputs: Iterable[str], frozen: Iterable[str] = ()) -> Pullback:
    """The same pullback for some of its inputs, with others left out unless asked for."""

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        return pullback(dy, wrt=wrt)

    return Pullback(backward, y, inputs=tuple(inputs), frozen=tuple(frozen))
