"""Compare the gradients with what was expected, and say what a failure looks like. NaN never passes."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ._interface import Array
from ._report import InputResult


def compare(
    name: str,
    answers: list[Array],
    expected: Array,
    allowed: Array,
    scale: Array,
    measure: Callable[[Array], Array] = lambda g: g,
) -> InputResult:
    """Whether |measure(g) - expected| <= allowed for every answer g and every element; the result of the worst answer.

    allowed and scale: arrays of expected's shape, or numbers. Errors are given in units of scale.
    """
    results = [_compare_one(name, g, measure(g), expected, allowed, scale) for g in answers]
    return max(results, key=lambda result: (not result.ok, result.error))


def _compare_one(name: str, g: Array, got: Array, expected: Array, allowed: Array, scale: Array) -> InputResult:
    if expected.size == 0:
        return InputResult(name, True, 0.0)
    allowed, scale = np.broadcast_to(allowed, expected.shape), np.broadcast_to(scale, expected.shape)
    with np.errstate(all="ignore"):
        difference = np.abs(got - expected)
        passes = (difference <= allowed) & np.isfinite(allowed)  # NaN <= allowed is False
        units = np.where(difference == 0, 0.0, difference / scale)
    units = np.where(np.isfinite(units), units, np.where(passes, 0.0, np.inf))
    ok = bool(passes.all())
    worst = np.unravel_index(np.argmax(units if ok else np.where(passes, -1.0, units)), expected.shape)
    note = "" if ok else _note(g, got, expected, passes, scale)
    index = tuple(int(i) for i in worst)
    return InputResult(name, ok, float(units[worst]), index, expected[worst], got[worst], note)


def _note(g: Array, got: Array, expected: Array, passes: Array, scale: Array) -> str:
    """What is wrong, where it shows in the array as a whole: the commonest faults do."""
    if not np.all(np.isfinite(expected)):
        return "the derivative itself is not finite here"
    if not np.all(np.isfinite(g)):
        return f"{np.sum(~np.isfinite(g))} of {g.size} elements are not finite"
    if not np.any(g):
        return "the gradient is zero everywhere"
    if got.ndim == 2 and got.shape[0] == got.shape[1] > 1 and _close(got.T, expected, scale):
        return "the transpose would be right"
    ratio = np.sum(got * expected) / np.sum(expected * expected) if np.any(expected) else 0.0
    if ratio and abs(ratio - 1.0) > 1e-6 and _close(got, ratio * expected, scale):
        return f"everywhere {ratio:.6g} times what is expected"
    rounded = "" if g.dtype == expected.dtype else f"; the gradient is {g.dtype}, expected {expected.dtype}"
    return f"{np.sum(~passes)} of {passes.size} values are wrong{rounded}"


def _close(a: Array, b: Array, scale: Any) -> bool:
    return bool(np.all(np.abs(a - b) <= 1e-9 * scale))
