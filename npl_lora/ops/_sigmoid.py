"""The logistic function, without overflow, for real and complex numbers."""

from ._interface import Array
from ._namespace import lower


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)) for Re x >= 0 and exp(x) / (1 + exp(x)) below: the same number, and exp never overflows. In one
    line, exp(min(x, 0)) / (1 + exp(min(x, -x)))."""
    xp = x.__array_namespace__()
    if hasattr(xp, "sigmoid"):
        return xp.sigmoid(x)
    return xp.exp(lower(x, xp.zeros_like(x))) / (1.0 + xp.exp(lower(x, -x)))
