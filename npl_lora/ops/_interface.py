"""The one interface: an op returns its value and its pullback.

    y, pullback = op(x=..., W=..., ..., **config)
    grads       = pullback(dy)                          # {"x": dx, "A": dA, "B": dB}
    grads       = pullback(dy, wrt=("A", "B"))          # only these two, and no work for the others

Let L be a scalar loss and dy = dL/dy. A pullback returns dL/d(input) for the op's inputs, under their own names: it
applies the transposed Jacobian of the op to dy.

A pullback changes nothing and adds nothing up between calls, so it may be called any number of times. What the backward
needs is held by its closure, and nothing else is saved: freeing the pullback frees it.
"""

from collections.abc import Callable, Iterable, Mapping

from ..support.array import Array
from .checks import check_inputs


class Pullback:
    """The hand-written backward of one call of an op.

    inputs: the names of the inputs that it can differentiate.
    frozen: those of them that it leaves out unless `wrt` names them.
    """

    __slots__ = ("_backward", "_shape", "frozen", "inputs")

    def __init__(
        self,
        backward: Callable[[Array, frozenset[str]], Mapping[str, Array]],
        y: Array,
        inputs: tuple[str, ...],
        frozen: tuple[str, ...] = (),
    ) -> None:
        self._backward = backward
        self._shape = tuple(y.shape)  # the shape alone: holding y would keep its memory for nothing
        self.inputs = inputs
        self.frozen = frozen

    def __call__(self, dy: Array, wrt: Iterable[str] | None = None) -> dict[str, Array]:
        """dy, of y's shape -> {name: the gradient of that input, of its shape}.

        wrt: the names to differentiate; by default every input that is not frozen.
        Raises ValueError when dy does not have y's shape, or wrt names something that is not an input.
        """
        if self._shape == () and isinstance(dy, (int, float, complex)):  # a scalar loss: dy may be a plain 1.0
            dy = complex(dy) if isinstance(dy, complex) else float(dy)  # np.float64 would decide the dtype
        else:
            check_inputs(dy=(dy, self._shape))
        if isinstance(wrt, str):
            raise TypeError(f"wrt is the string {wrt!r}, expected a tuple of names such as ({wrt!r},)")
        wanted = frozenset(self.inputs) - frozenset(self.frozen) if wrt is None else frozenset(wrt)
        if unknown := [str(name) for name in wanted if name not in self.inputs]:
            raise ValueError(f"wrt names {', '.join(sorted(unknown))}, expected some of {', '.join(self.inputs)}")
        grads = self._backward(dy, wanted)
        return {name: grads[name] for name in self.inputs if name in wanted}

    def __repr__(self) -> str:
        """Pullback(y (2, 10, 6) -> x, A, B; frozen: W)"""
        trained = ", ".join(name for name in self.inputs if name not in self.frozen)
        frozen = f"; frozen: {', '.join(self.frozen)}" if self.frozen else ""
        return f"{type(self).__name__}(y {self._shape} -> {trained}{frozen})"
