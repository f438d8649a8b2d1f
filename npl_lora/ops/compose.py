"""compose: how larger functions are put together from ops, forwards in order and pullbacks in reverse.

A stage takes one array and returns y and its pullback, as an op does. The gradient of the array that came in is called
"x"; the gradients of weights keep their own names. partial(linear, W=W) is a stage, and so is softmax. The activations
call their input z, so renamed(relu, {"z": "x"}) is a stage. These functions take stages and return a stage:

    chain(f, g)                 y = g(f(x))
    residual(f)                 y = x + f(x)
    add(f, g)                   y = f(x) + g(x)
    branch(op, q=f, k=g)        y = op(q=f(x), k=g(x))        x fans out, and its gradient is the sum over the stages
    recompute(f)                y = f(x)                      the backward computes f again, so nothing inside f is kept
    renamed(f, {"W": "Wq"})     y = f(x)                      the gradient of W goes by the name Wq
    over_rows(f)                y = f(x)                      f sees all tokens as the rows of one matrix

split_heads(D) and join_heads are stages themselves. `reopen` and `Gradients` are for pullbacks written by hand.

An MLP can then be written as its formula, down(act(gate(x)) o up(x)), and needs no backward of its own:

    mlp = chain(branch(glu, gate=gate, up=up), down)
    y, pullback = mlp(x)
    pullback(dy)                                              # {"x": dx, "W_gate": ..., "W_up": ..., "W_down": ...}

Derivation. This is the chain rule. With J_f the Jacobian of f, the gradient of g(f(x)) is J_f^T J_g^T dy, so dy goes
through g's pullback first and through f's after it. Where x enters in several places, δy is the sum of the changes
through each of them, and so dx is the sum of the gradients that come back. In the same way, a weight that several
stages share under one name gets the sum of their gradients.

A pullback computes only what somebody asks for. The backward of a chain ends at the first stage that has a name in
`wrt`: the stages before it are not called.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from ..support.array import Array
from ._interface import Pullback
from .namespace import rows

Op = Callable[..., tuple[Array, Pullback]]
Stage = Callable[[Array], tuple[Array, Pullback]]


def chain(*stages: Stage) -> Stage:
    """y = the last stage of (... the second stage of (the first stage of x)). Raises ValueError for no stages."""
    if not stages:
        raise ValueError("chain got no stages, expected at least one")

    def forward(x: Array) -> tuple[Array, Pullback]:
        pullbacks: list[Pullback] = []
        for stage in stages:
            x, pullback = stage(x)
            pullbacks.append(pullback)

        def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
            grads = Gradients(wrt)
            lowest = _lowest(pullbacks, wrt)
            for i in range(len(pullbacks) - 1, lowest - 1, -1):
                dy = grads.through(pullbacks[i], dy, "x" if i > lowest else None)  # forward was: x = stages[i](x)
            return grads

        inputs = _union(pullbacks[0].inputs, *[_weights(p.inputs) for p in pullbacks[1:]])
        return x, Pullback(backward, x, inputs, _union(*[p.frozen for p in pullbacks]))

    return forward


def _lowest(pullbacks: Sequence[Pullback], wrt: frozenset[str]) -> int:
    """The first stage of a chain that has a gradient to give; the number of stages when none has."""
    for i, pullback in enumerate(pullbacks):
        names = pullback.inputs if i == 0 else _weights(pullback.inputs)
        if wrt & set(names):
            return i
    return len(pullbacks)


def branch(op: Op, **stages: Stage) -> Stage:
    """y = op(name=stage(x), ...), where each stage stands under the name of the op's input that it computes.

    An input of the op is differentiated only when its stage has a gradient to give.
    """

    def forward(x: Array) -> tuple[Array, Pullback]:
        values, pullbacks = {}, {}
        for name, stage in stages.items():
            values[name], pullbacks[name] = stage(x)
        y, op_pullback = op(**values)

        def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
            asked = [name for name, pullback in pullbacks.items() if wrt & set(pullback.inputs)]
            dvalues = op_pullback(dy, wrt=asked)  # forward was: y = op(**values)
            grads = Gradients(wrt)
            for name in asked:
                grads.through(pullbacks[name], dvalues[name])  # forward was: values[name] = stages[name](x)
            return grads

        inputs = _union(*[p.inputs for p in pullbacks.values()])
        return y, Pullback(backward, y, inputs, _union(*[p.frozen for p in pullbacks.values()]))

    return forward


def add(*stages: Stage) -> Stage:
    """y = the sum of the stages of x. Each stage gets dy. Raises ValueError if their shapes differ."""
    names = tuple(f"term_{i}" for i in range(len(stages)))

    def total(**terms: Array) -> tuple[Array, Pullback]:
        first, *others = terms.values()
        for name, term in terms.items():
            if term.shape != first.shape:
                raise ValueError(f"{name} has shape {tuple(term.shape)}, expected that of term_0, {tuple(first.shape)}")
        y = sum(others, start=first)

        def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
            return dict.fromkeys(wrt, dy)  # forward was: y = the sum of the terms

        return y, Pullback(backward, y, names)

    return branch(total, **dict(zip(names, stages, strict=True)))


def residual(stage: Stage) -> Stage:
    """y = x + stage(x). dx is dy itself plus what comes back through the stage.

    Raises ValueError if stage(x) has another shape than x, or if the stage has no input x.
    """

    def forward(x: Array) -> tuple[Array, Pullback]:
        inner, pullback = stage(x)
        if inner.shape != x.shape:
            raise ValueError(f"stage(x) has shape {tuple(inner.shape)}, expected x's, {tuple(x.shape)}")
        _check_input("x", pullback)
        y = x + inner

        def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
            grads = pullback(dy, wrt=wrt)
            if "x" in wrt:
                grads["x"] = dy + grads["x"]  # forward was: y = x + stage(x)
            return grads

        return y, Pullback(backward, y, pullback.inputs, pullback.frozen)

    return forward


def recompute(stage: Stage) -> Stage:
    """y = stage(x), keeping only x for the backward, which computes the stage again. Same values, same gradients.

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.
    """

    def forward(x: Array) -> tuple[Array, Pullback]:
        y, first = stage(x)
        inputs, frozen = first.inputs, first.frozen  # not `first` itself, which holds what should be forgotten

        def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
            _, again = stage(x)  # forward was: y = stage(x)
            return again(dy, wrt=wrt)

        return y, Pullback(backward, y, inputs, frozen)

    return forward


def renamed(stage: Stage, names: Mapping[str, str]) -> Stage:
    """The same stage, with other names for its inputs: {its own name: the new name}. Names not listed stay."""

    def forward(x: Array) -> tuple[Array, Pullback]:
        y, pullback = stage(x)
        new = {name: names.get(name, name) for name in pullback.inputs}

        def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
            grads = pullback(dy, wrt=[name for name in new if new[name] in wrt])
            return {new[name]: grad for name, grad in grads.items()}

        return y, Pullback(backward, y, tuple(new.values()), tuple(new[name] for name in pullback.frozen))

    return forward


def over_rows(stage: Stage) -> Stage:
    """The stage on all tokens at once: x (..., in) goes in as a matrix (N, in), and y comes back as (..., out).

    NumPy multiplies a stack of matrices one after another, and for short texts these matrices are small. One large
    product is faster.
    """

    def forward(x: Array) -> tuple[Array, Pullback]:
        y, pullback = stage(rows(x))
        y = _reshape(y, (*x.shape[:-1], y.shape[-1]))
        shape = x.shape

        def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
            grads = pullback(rows(dy), wrt=wrt)
            if "x" in grads:
                grads["x"] = _reshape(grads["x"], shape)
            return grads

        return y, Pullback(backward, y, pullback.inputs, pullback.frozen)

    return forward


def split_heads(head_size: int) -> Stage:
    """(..., T, H D) -> (..., H, T, D): the features of each token, cut into heads of size D = head_size.

    Raises ValueError if the features are no multiple of head_size.
    """

    def forward(x: Array) -> tuple[Array, Pullback]:
        if x.shape[-1] % head_size:
            raise ValueError(f"x has {x.shape[-1]} features, expected a multiple of head_size = {head_size}")
        y = _split(x, head_size)

        def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
            return {"x": _join(dy)} if "x" in wrt else {}

        return y, Pullback(backward, y, ("x",))

    return forward


def join_heads(x: Array) -> tuple[Array, Pullback]:
    """(..., H, T, D) -> (..., T, H D): the heads side by side, which undoes split_heads."""
    y, D = _join(x), x.shape[-1]

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        return {"x": _split(dy, D)} if "x" in wrt else {}

    return y, Pullback(backward, y, ("x",))


def features(begin: int, end: int) -> Stage:
    """(..., C) -> (..., end - begin): the features from begin on. dx is zero at the others.

    Raises ValueError if x has fewer than end.
    """

    def forward(x: Array) -> tuple[Array, Pullback]:
        if not 0 <= begin <= end <= x.shape[-1]:
            raise ValueError(f"x has {x.shape[-1]} features, expected those from {begin} to {end}")
        y = x[..., begin:end]

        def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
            if "x" not in wrt:
                return {}
            xp, sizes = dy.__array_namespace__(), (begin, x.shape[-1] - end)
            before, after = (xp.zeros((*x.shape[:-1], size), dtype=dy.dtype) for size in sizes)
            return {"x": xp.concat((before, dy, after), axis=-1)}

        return y, Pullback(backward, y, ("x",))

    return forward


def reopen(pullback: Pullback, y: Array, inputs: Iterable[str], frozen: Iterable[str] = ()) -> Pullback:
    """The same pullback, offering only these inputs, and leaving out the frozen ones unless they are asked for."""
    return Pullback(lambda dy, wrt: pullback(dy, wrt=wrt), y, tuple(inputs), tuple(frozen))


class Gradients(dict[str, Array]):
    """Gradients by name, collected as pullbacks are called one after another. A name that comes twice gets the sum."""

    def __init__(self, wrt: Iterable[str]) -> None:
        super().__init__()
        self.wrt = frozenset(wrt)

    def through(self, pullback: Pullback, dy: Array, onward: str | None = None) -> Array:
        """Call a pullback for those of its inputs that are in wrt, and collect their gradients.

        onward: one more input, whose gradient is returned and not collected, for the pullback below.
        """
        if onward is not None:
            _check_input(onward, pullback)
        names = [name for name in pullback.inputs if name in self.wrt or name == onward]
        grads = pullback(dy, wrt=names)
        dx = grads.pop(onward) if onward is not None else None
        for name, gradient in grads.items():
            self[name] = self[name] + gradient if name in self else gradient
        return dx


def _check_input(name: str, pullback: Pullback) -> None:
    if name not in pullback.inputs:
        inputs = ", ".join(pullback.inputs)
        raise ValueError(f"a stage has the inputs {inputs}, expected {name} among them: use renamed")


def _union(*names: Sequence[str]) -> tuple[str, ...]:
    """Each name once, in the order of first appearance."""
    return tuple(dict.fromkeys(name for group in names for name in group))


def _weights(inputs: Sequence[str]) -> list[str]:
    return [name for name in inputs if name != "x"]


def _split(t: Array, D: int) -> Array:
    return _swap(_reshape(t, (*t.shape[:-1], t.shape[-1] // D, D)))


def _join(t: Array) -> Array:
    t = _swap(t)
    return _reshape(t, (*t.shape[:-2], t.shape[-2] * t.shape[-1]))


def _swap(t: Array) -> Array:
    """The second and third axis from the end, exchanged."""
    axes = list(range(t.ndim))
    axes[-3], axes[-2] = axes[-2], axes[-3]
    return t.__array_namespace__().permute_dims(t, tuple(axes))


def _reshape(t: Array, shape: tuple[int, ...]) -> Array:
    return t.__array_namespace__().reshape(t, shape)
