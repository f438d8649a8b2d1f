"""Wraps that change what comes out of an op, or the gradient that goes into its pullback."""

from typing import Any

import numpy as np

from ...ops import Pullback
from ...support.array import Array
from ..definition import Wrap
from .degrees import Change


def mean_over_tokens(dy: Array) -> Array:
    tokens = int(np.prod(dy.shape[:-1]))
    return dy / tokens if tokens else dy


def with_cotangent(change: Change) -> Wrap:
    """The op whose pullback gets change(dy) for dy."""

    def wrap(op: Any) -> Any:
        def wrong(*args: Any, **kwargs: Any) -> tuple[Array, Pullback]:
            y, pullback = op(*args, **kwargs)
            return y, Pullback(lambda dy, wrt: pullback(change(dy), wrt=wrt), y, pullback.inputs, pullback.frozen)

        return wrong

    return wrap


def with_value(change: Change) -> Wrap:
    """The op with change(y) for y, and the right pullback."""

    def wrap(op: Any) -> Any:
        def wrong(*args: Any, **kwargs: Any) -> tuple[Array, Pullback]:
            y, right = op(*args, **kwargs)
            y = change(y)
            return y, Pullback(lambda dy, wrt: right(dy, wrt=wrt), y, right.inputs, right.frozen)

        return wrong

    return wrap


def handed_on(op: Any) -> Any:
    """Hand on the first argument, and its gradient."""

    def wrong(x: Array, *args: Any, **kwargs: Any) -> tuple[Array, Pullback]:
        _, right = op(x, *args, **kwargs)
        first = right.inputs[0]

        def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
            return {
                **{name: 0.0 * grad for name, grad in right(dy, wrt=wrt).items()},
                **({first: dy} if first in wrt else {}),
            }

        return x, Pullback(backward, x, right.inputs, right.frozen)

    return wrong
