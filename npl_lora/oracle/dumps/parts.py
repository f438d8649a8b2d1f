"""Right answers cut into parts and put together again; and what a factor between two answers is called."""

from collections.abc import Callable

import numpy as np

from ..case import Case
from ..diagnosis.expressions import name_of
from ..tolerance.judge import OutputVerdict, Right, constant_factor, format_factor
from .step import Step

_PLAIN = ("0", "-1", "2", "1/2")  # expressions that say no more than the number does


def each(right: Right, move: Callable[[np.ndarray], np.ndarray]) -> Right:
    """The same of every array in it."""
    value, size, allowed, deviation, proven = (move(array) for array in _arrays(right))
    return Right(value, size, allowed, deviation, proven)


def join(parts: list[Right], axis: int) -> Right:
    """Parts of one right answer, side by side."""
    beside = zip(*map(_arrays, parts), strict=True)
    value, size, allowed, deviation, proven = (np.concatenate(arrays, axis=axis) for arrays in beside)
    return Right(value, size, allowed, deviation, proven)


def _arrays(right: Right) -> tuple[np.ndarray, ...]:
    return right.value, right.size, right.allowed, right.deviation, right.proven


def factor_of(step: Step, right: Right, got: np.ndarray) -> str:
    """What got is times, everywhere, and what that is in terms of the configuration: "0.5 = 1/s". Nothing if not."""
    factor = constant_factor(right, got)
    if factor is None:
        return ""
    error = float(np.sum(np.abs(right.value) * right.allowed)) / float(np.sum(right.value**2))
    case = Case("lora_linear", "", step.dtype, step.config, step.arrays)
    expression = name_of([(case, factor, error)])
    return format_factor(factor) + (f" = {expression}" if expression and expression not in _PLAIN else "")


def with_note(verdict: OutputVerdict, note: str) -> OutputVerdict:
    """The verdict with one more thing to say."""
    said = "; ".join(part for part in (verdict.note, note) if part)
    return OutputVerdict(verdict.verdict, verdict.error, verdict.allowed, said)
