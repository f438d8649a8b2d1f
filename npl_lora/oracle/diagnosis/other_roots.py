"""rms_norm with x divided by something else than sqrt(mean(x^2) + eps).

A backward written by hand keeps its formula and takes the other root. An automatic one differentiates it.
"""

from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any

from ...ops import Pullback
from ...ops.namespace import rows
from ...support.array import Array
from ..definition import Wrap

Root = Callable[[Array, float], tuple[Array, Array]]  # (x, eps) -> the root of each token, and n times its slope by x


def _mean(t: Array) -> Array:
    return t.__array_namespace__().mean(t, axis=-1, keepdims=True)


def _sqrt(t: Array) -> Array:
    return t.__array_namespace__().sqrt(t)


def _larger(t: Array, least: float) -> tuple[Array, Array]:
    """max(t, least), and 1 where that is t."""
    xp, zero = t.__array_namespace__(), 0.0 * t
    return xp.where(t > least, t, zero + least), xp.where(t > least, zero + 1.0, zero)


def _over_n_less_one(x: Array, eps: float) -> tuple[Array, Array]:
    share = x.shape[-1] / (x.shape[-1] - 1.0)
    root = _sqrt(share * _mean(x * x) + eps)
    return root, share * x / root


def _larger_of_root_and_eps(x: Array, eps: float) -> tuple[Array, Array]:
    root, is_root = _larger(_sqrt(_mean(x * x)), eps)
    return root, is_root * x / root


def _larger_of_square_and_eps(x: Array, eps: float) -> tuple[Array, Array]:
    square, is_square = _larger(_mean(x * x), eps)
    return _sqrt(square), is_square * x / _sqrt(square)


def _mean_of_sizes(x: Array, eps: float) -> tuple[Array, Array]:
    xp, zero = x.__array_namespace__(), 0.0 * x
    return _mean(xp.where(x < 0, -x, x)) + eps, xp.where(x < 0, zero - 1.0, zero + 1.0)


def _deviation(x: Array, eps: float) -> tuple[Array, Array]:
    centred = x - _mean(x)
    root = _sqrt(_mean(centred * centred) + eps)
    return root, centred / root


ROOTS: dict[str, Root] = {
    "sqrt(sum(x^2) / (n - 1) + eps)": _over_n_less_one,
    "max(sqrt(mean(x^2)), eps)": _larger_of_root_and_eps,
    "sqrt(max(mean(x^2), eps))": _larger_of_square_and_eps,
    "mean(|x|) + eps": _mean_of_sizes,
    "sqrt(mean((x - mean(x))^2) + eps)": _deviation,
}


def other_roots() -> Iterator[tuple[str, Wrap, Wrap]]:
    """What an edit of the root says, its wrap with a backward by hand, and with a differentiated one."""
    for formula, root in ROOTS.items():
        yield f"the root were {formula}", partial(_divided, root, True), partial(_divided, root, False)


def _divided(root: Root, by_hand: bool, rms_norm: Any) -> Any:
    @wraps(rms_norm)
    def wrong(x: Array, w: Array, *, eps: float) -> tuple[Array, Pullback]:
        divisor, slope = root(x, eps)
        xhat = x / divisor
        y = w * xhat

        def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
            g = w * dy
            dx = (g - (xhat if by_hand else slope) * _mean(g * xhat)) / divisor
            grads = {"x": dx, "w": x.__array_namespace__().sum(rows(dy * xhat), axis=0)}
            return {name: grads[name] for name in wrt}

        return y, Pullback(backward, y, ("x", "w"))

    return wrong
