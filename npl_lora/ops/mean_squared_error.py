"""mean_squared_error: the mean of the squared differences over all elements.

    loss = (1 / n) sum (prediction - target)^2

n is the number of elements. When micro-batches accumulate, n is the number in the whole window and is given as `count`.
With no elements the loss is 0.

Derivation. Each element enters once, squared, so dprediction = dloss (2 / n)(prediction - target).
"""

from __future__ import annotations

import math

from ._interface import Array, Pullback
from .checks import check_inputs, check_integer
from .namespace import quotient, zero_dim


def mean_squared_error(
    prediction: Array,  # (...)
    target: Array,  # (...)
    *,
    count: int | None = None,  # n; by default the elements of this call
) -> tuple[Array, Pullback]:  # loss ()
    """loss = sum((prediction - target)^2) / count.

    Shapes: prediction (...), target (...) -> loss (); both inputs have one shape.

    count: the number of elements in the whole accumulation window; by default those of this call.
    The pullback differentiates prediction.
    Derivation: at the top of npl_lora/ops/mean_squared_error.py.
    """
    xp, _ = check_inputs(prediction=(prediction, "..."), target=(target, "..."))
    if count is None:
        count = math.prod(prediction.shape)
    weight = quotient(xp, 1, max(check_integer("count", count, 0), 1))
    error = prediction - target
    loss = zero_dim(weight * xp.sum(error * error))

    def backward(dloss: Array, wrt: frozenset[str]) -> dict[str, Array]:
        # forward was: loss = (1 / n) sum (prediction - target)^2
        return {"prediction": (2.0 * weight * dloss) * error} if "prediction" in wrt else {}

    return loss, Pullback(backward, loss, inputs=("prediction",))
