"""What the ops need and the Python array API standard lacks. Each such function has its name here, and only here.

Everything else in ops uses the standard's own functions, taken from the arrays (`__array_namespace__`). So the same
code runs on NumPy, CuPy, array-api-strict and the oracle's error-carrying arrays.
"""

import math
from typing import Any

from ..support.array import Array
from . import _erf


def rows(t: Array) -> Array:
    """(..., n) -> (N, n). (reshape(-1, n) cannot work out N when n is 0.)"""
    return t.__array_namespace__().reshape(t, (math.prod(t.shape[:-1]), t.shape[-1]))


def flat(t: Array) -> Array:
    """(...) -> (N,)."""
    return t.__array_namespace__().reshape(t, (math.prod(t.shape),))


def zero_dim(scalar: Array) -> Array:
    """A scalar as an array of shape (). (NumPy's sum of an array is a scalar, which is no array.)"""
    xp = scalar.__array_namespace__()
    return xp.reshape(xp.reshape(scalar, (1,)), ())


def real(x: Array) -> Array:
    """The real part. (The standard has it for complex dtypes only.)"""
    xp = x.__array_namespace__()
    return xp.real(x) if xp.isdtype(x.dtype, "complex floating") else x


def lower(a: Array, b: Array) -> Array:
    """Of each pair the number with the smaller real part; a's where the two are equal.

    The standard's minimum is for real dtypes only. It is used there because it is ten times faster than choosing by a
    condition that the processor cannot predict.
    """
    xp = a.__array_namespace__()
    return xp.minimum(a, b) if xp.isdtype(a.dtype, "real floating") else xp.where(real(a) <= real(b), a, b)


def take_rows(table: Array, ids: Array) -> Array:
    """table (V, n), ids (...) -> (..., n). (The standard takes by a one-dimensional index only.)"""
    xp = table.__array_namespace__()
    return xp.reshape(xp.take(table, flat(ids), axis=0), (*ids.shape, table.shape[1]))


def scatter_add(values: Array, ids: Array, size: int) -> Array:
    """values (N, n), ids (N,) -> (size, n): row v is the sum of the values whose id is v. Repeated ids accumulate."""
    xp = values.__array_namespace__()
    if hasattr(xp, "add") and hasattr(xp.add, "at"):  # NumPy and CuPy
        out = xp.zeros((size, values.shape[1]), dtype=values.dtype)
        xp.add.at(out, ids, values)
        return out
    ids = xp.astype(ids, xp.int64)  # a narrow dtype may be too small to count to size
    chosen = xp.expand_dims(xp.arange(size, dtype=xp.int64), axis=1) == xp.expand_dims(ids, axis=0)
    return xp.astype(chosen, values.dtype) @ values


def zero_row(table: Array, row: int | None) -> Array:
    """The table (V, n) with one row set to zero. (The standard promises no writable arrays.)"""
    if row is None:
        return table
    xp = table.__array_namespace__()
    here = xp.expand_dims(xp.arange(table.shape[0]) == row, axis=1)
    return xp.where(here, xp.zeros_like(table), table)


def quotient(xp: Any, p: int, q: int) -> Any:
    """p / q, a constant of a formula: a Python float, or the namespace's own number where that has more digits."""
    return xp.quotient(p, q) if hasattr(xp, "quotient") else p / q


def rotary_dtype(x: Array) -> Any:
    """The real dtype in which a table of angles for x is computed: float64, or longdouble when x is longdouble."""
    xp = x.__array_namespace__()
    return x.dtype if xp.isdtype(x.dtype, "real floating") and xp.finfo(x.dtype).eps < 2.0**-52 else xp.float64


def table_for(table: Array, x: Array) -> Array:
    """A real table, rounded to the precision of x (float64 when x is complex128)."""
    xp = x.__array_namespace__()
    if xp.isdtype(x.dtype, "real floating"):
        return xp.astype(table, x.dtype)
    return xp.astype(table, xp.float32) if x.dtype == xp.complex64 else table


def normal_cdf(x: Array) -> Array:
    """Phi(x), the standard normal distribution function: the namespace's own where it has one, else ours."""
    xp = x.__array_namespace__()
    return xp.normal_cdf(x) if hasattr(xp, "normal_cdf") else _erf.normal_cdf(x)


def normal_pdf(x: Array) -> Array:
    """phi(x) = exp(-x^2 / 2) / sqrt(2 pi): the namespace's own where it has one, else ours.

    Ours does not lose digits in the tail to the rounding of x^2.
    """
    xp = x.__array_namespace__()
    if hasattr(xp, "normal_pdf"):
        return xp.normal_pdf(x)
    return _erf.exp_minus_half_square(x) * (2.0 * math.pi) ** -0.5


def sigmoid(x: Array) -> Array:
    """The logistic function, 1 / (1 + exp(-x)), without overflow.

    For Re x >= 0 it is computed as 1 / (1 + exp(-x)), and below as exp(x) / (1 + exp(x)), which is the same number.
    Both are exp(min(x, 0)) / (1 + exp(min(x, -x))).
    """
    xp = x.__array_namespace__()
    if hasattr(xp, "sigmoid"):
        return xp.sigmoid(x)
    return xp.exp(lower(x, xp.zeros_like(x))) / (1.0 + xp.exp(lower(x, -x)))
