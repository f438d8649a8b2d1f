"""The logistic function, without overflow, for real and complex numbers."""

from ._interface import Array
from ._namespace import real


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)) for Re x >= 0 and exp(x) / (1 + exp(x)) below: the same number, and exp never overflows."""
    xp = x.__array_namespace__()
    if hasattr(xp, "sigmoid"):
        return xp.sigmoid(x)
    right = real(x) >= 0
    e = xp.exp(xp.where(right, -x, x))
    return xp.where(right, xp.ones_like(x), e) / (1.0 + e)
