"""How ops are put together: stages, forward in order and pullbacks in reverse.

A stage takes one array and returns y and its pullback, as an op does. The gradient of what came in is called "x"; the
gradients of weights keep their own names. The functions here take stages and return a stage:

    chain(f, g)                 y = g(f(x))
    residual(f)                 y = x + f(x)
    added(f, g)                 y = f(x) + g(x)
    branch(op, q=f, k=g)        y = op(q=f(x), k=g(x))        x fans out: its gradient is the sum over the stages
    recompute(f)                y = f(x), and the backward computes f again instead of keeping what is in it

so that an MLP is written as its formula, down(act(gate(x)) o up(x)), and needs no backward of its own:

    mlp = chain(branch(glu, gate=gate, up=up), down)
    y, pullback = mlp(x)
    pullback(dy)                                              # {"x": dx, "W_gate": ..., "W_up": ..., "W_down": ...}

Derivation. The chain rule. y = g(f(x)) has the transposed Jacobian J_f^T J_g^T, so dy goes through g's pullback first.
Where x enters in several places, the change of y is the sum of the changes through each, and so is the gradient.

A weight that several stages use under one name gets the sum of their gradients.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from ..support.array import Array
from ._interface import Pullback
from .namespace import rows

Op = Callable[..., tuple[Array, Pullback]]
Stage = Callable[[Array], tuple[Array, Pullback]]


def chain(*stages: Stage) -> Stage:
    """y = the last stage of ... of the first stage of x.

    The backward stops at the lowest stage that somebody asks about.
    """

    def forward(x: Array) -> tuple[Array, Pullback]:
        pullbacks: list[Pullback] = []
        for stage in stages:
            x, pullback = stage(x)
            pullbacks.append(pullback)

        def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
            grads = Gradients(wrt)
            weights = wrt - {"x"}
            asked = [i for i, p in enumerate(pullbacks) if weights & set(p.inputs) or (i == 0 and "x" in wrt)]
            for i in range(len(pullbacks) - 1, min(asked, default=len(pullbacks)) - 1, -1):
                dy = grads.through(pullbacks[i], dy, "x" if i > asked[0] else None)
            return grads

        inputs = _united(pullbacks[0].inputs, *[_weights(p.inputs) for p in pullbacks[1:]])
        return x, Pullback(backward, x, inputs, _united(*[p.frozen for p in pullbacks]))

    return forward


def branch(op: Op, **stages: Stage) -> Stage:
    """y = op(name=stage(x), ...), each stage under the name of the op's input that it gives.

    No input of the op is differentiated unless something in its stage is asked for.
    """

    def forward(x: Array) -> tuple[Array, Pullback]:
        values, pullbacks = {}, {}
        for name, stage in stages.items():
            values[name], pullbacks[name] = stage(x)
        y, op_pullback = op(**values)

        def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
            asked = [name for name, pullback in pullbacks.items() if wrt & set(pullback.inputs)]
            through = op_pullback(dy, wrt=asked)
            grads = Gradients(wrt)
            for name in asked:
                grads.through(pullbacks[name], through[name])
            return grads

        inputs, frozen = ([getattr(p, kind) for p in pullbacks.values()] for kind in ("inputs", "frozen"))
        return y, Pullback(backward, y, _united(*inputs), _united(*frozen))

    return forward


def added(*stages: Stage) -> Stage:
    """y = the sum of the stages of x: each gets dy."""
    names = [f"term_{i}" for i in range(len(stages))]

    def total(**terms: Array) -> tuple[Array, Pullback]:
        first, *others = terms.values()
        y = sum(others, start=first)
        return y, Pullback(lambda dy, wrt: dict.fromkeys(wrt, dy), y, tuple(names))

    return branch(total, **dict(zip(names, stages, strict=True)))


def residual(stage: Stage) -> Stage:
    """y = x + stage(x): the gradient of x is dy itself, and what comes back through the stage."""

    def forward(x: Array) -> tuple[Array, Pullback]:
        inner, pullback = stage(x)
        y = x + inner

        def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
            grads = pullback(dy, wrt=wrt)
            return grads | ({"x": dy + grads["x"]} if "x" in wrt else {})

        return y, Pullback(backward, y, pullback.inputs, pullback.frozen)

    return forward


def recompute(stage: Stage) -> Stage:
    """The same value and gradients, for the memory of x alone: the backward computes the forward again.

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.
    """

    def forward(x: Array) -> tuple[Array, Pullback]:
        y, once = stage(x)
        inputs, frozen = once.inputs, once.frozen  # and not `once` itself, which holds what is to be forgotten

        def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
            return stage(x)[1](dy, wrt=wrt)

        return y, Pullback(backward, y, inputs, frozen)

    return forward


def renamed(stage: Stage, names: Mapping[str, str]) -> Stage:
    """The same stage, with its pullback's inputs under other names: {its own: another}. The others keep theirs."""

    def forward(x: Array) -> tuple[Array, Pullback]:
        y, pullback = stage(x)
        full = {name: names.get(name, name) for name in pullback.inputs}

        def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
            grads = pullback(dy, wrt=[name for name in full if full[name] in wrt])
            return {full[name]: grad for name, grad in grads.items()}

        return y, Pullback(backward, y, tuple(full.values()), tuple(full[name] for name in pullback.frozen))

    return forward


def reopened(pullback: Pullback, y: Array, inputs: Iterable[str], frozen: Iterable[str] = ()) -> Pullback:
    """The same pullback for some of its inputs, with others left out unless asked for."""
    return Pullback(lambda dy, wrt: pullback(dy, wrt=wrt), y, tuple(inputs), tuple(frozen))


def over_rows(stage: Stage) -> Stage:
    """The stage on all tokens as the rows of one matrix: x (..., in) goes in as (N, in), y comes back as (..., out).

    NumPy multiplies a stack of matrices one after another, and short texts make small ones.
    """

    def forward(x: Array) -> tuple[Array, Pullback]:
        y, pullback = stage(rows(x))
        y = _reshaped(y, (*x.shape[:-1], y.shape[-1]))
        shape = x.shape

        def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
            grads = pullback(rows(dy), wrt=wrt)
            return grads | ({"x": _reshaped(grads["x"], shape)} if "x" in grads else {})

        return y, Pullback(backward, y, pullback.inputs, pullback.frozen)

    return forward


def split_heads(head_size: int) -> Stage:
    """(..., T, H D) -> (..., H, T, D): the features of a token, cut into heads of head_size = D."""

    def forward(x: Array) -> tuple[Array, Pullback]:
        y = _split(x, head_size)
        return y, Pullback(lambda dy, wrt: {"x": _joined(dy)} if "x" in wrt else {}, y, ("x",))

    return forward


def join_heads(x: Array) -> tuple[Array, Pullback]:
    """(..., H, T, D) -> (..., T, H D): the heads side by side, which undoes split_heads."""
    y, D = _joined(x), x.shape[-1]
    return y, Pullback(lambda dy, wrt: {"x": _split(dy, D)} if "x" in wrt else {}, y, ("x",))


class Gradients(dict[str, Array]):
    """Gradients by name, gathered as pullbacks are called in turn. A name that comes twice gets the sum."""

    def __init__(self, wrt: Iterable[str]) -> None:
        super().__init__()
        self.wrt = frozenset(wrt)

    def through(self, pullback: Pullback, dy: Array, handed_on: str | None = None) -> Array:
        """Call a pullback for what is wanted of its inputs. handed_on: one more, returned and not kept."""
        names = [name for name in pullback.inputs if name in self.wrt or name == handed_on]
        found = pullback(dy, wrt=names)
        dx = found.pop(handed_on) if handed_on is not None else None
        for name, gradient in found.items():
            self[name] = self[name] + gradient if name in self else gradient
        return dx


def _united(*names: Sequence[str]) -> tuple[str, ...]:
    """Each name once, in the order in which they come."""
    return tuple(dict.fromkeys(name for some in names for name in some))


def _weights(inputs: Sequence[str]) -> list[str]:
    return [name for name in inputs if name != "x"]


def _split(t: Array, D: int) -> Array:
    return _swapped(_reshaped(t, (*t.shape[:-1], t.shape[-1] // D, D)))


def _joined(t: Array) -> Array:
    t = _swapped(t)
    return _reshaped(t, (*t.shape[:-2], t.shape[-2] * t.shape[-1]))


def _swapped(t: Array) -> Array:
    """The second and third axis from the end, exchanged."""
    axes = list(range(t.ndim))
    axes[-3], axes[-2] = axes[-2], axes[-3]
    return t.__array_namespace__().permute_dims(t, tuple(axes))


def _reshaped(t: Array, shape: tuple[int, ...]) -> Array:
    return t.__array_namespace__().reshape(t, shape)
