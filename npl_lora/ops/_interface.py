"""The one interface: an op returns its value and its pullback.

    y, pullback = op(x=..., W=..., ..., **config)
    grads       = pullback(dy)                          # {"x": dx, "A": dA, "B": dB}
    grads       = pullback(dy, wrt=("A", "B"))          # these two, and no work for the others

With L a scalar loss and dy = dL/dy, a pullback returns dL/d(input) for the op's inputs, keyed by their own names: it is
the transposed Jacobian applied to dy, <dy, dy/dinput>. It adds nothing up between calls and changes nothing, so it may
be called any number of times. What the backward needs is closed over by it; freeing it frees that.
"""

from collections.abc import Callable, Iterable, Mapping

from ..support.array import Array
from .checks import check_inputs


class Pullback:
    """The hand-written backward of one call of an op.

    inputs: the names it can differentiate. frozen: those it leaves out unless `wrt` names them.
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
        self._shape = tuple(y.shape)  # the shape alone: holding y would keep it alive for nothing
        self.inputs = inputs
        self.frozen = frozen

    def __call__(self, dy: Array, wrt: Iterable[str] | None = None) -> dict[str, Array]:
        """dy (the shape of y) -> {name: gradient, of that input's shape}.

        wrt: the names to differentiate; by default every input that is not frozen.
        Raises ValueError when dy has not y's shape, or wrt names something that is not an input.
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
