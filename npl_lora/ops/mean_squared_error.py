"""mean_squared_error: loss = mean of (prediction - target)^2 over all elements.

Derivation. Each element enters once, squared: dprediction = dloss (2 / n)(prediction - target), n the number of
elements. For a window of micro-batches n is that of the whole window, given as `count`. With no element it is 0.
"""

import math

from ._interface import Array, Pullback
from .checks import check_inputs, check_integer
from .namespace import quotient, zero_dim


def mean_squared_error(prediction: Array, target: Array, *, count: int | None = None) -> tuple[Array, Pullback]:
    """loss = sum((prediction - target)^2) / count.

    prediction (...), target (...) of the same shape -> loss (). count: the elements of the whole accumulation window;
    by default those of this call. The pullback differentiates prediction.
    """
    xp, _ = check_inputs(prediction=(prediction, "..."), target=(target, "..."))
    if count is None:
        count = math.prod(prediction.shape)
    weight = quotient(xp, 1, max(check_integer("count", count, 0), 1))
    error = prediction - target
    loss = zero_dim(weight * xp.sum(error * error))

    def backward(dloss: Array, wrt: frozenset[str]) -> dict[str, Array]:
        return {"prediction": (2.0 * weight * dloss) * error} if "prediction" in wrt else {}

    return loss, Pullback(backward, loss, inputs=("prediction",))
