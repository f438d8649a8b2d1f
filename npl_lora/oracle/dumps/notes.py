"""Notes on a verdict: the factor between two answers, and what it is in terms of the configuration."""

import numpy as np

from ..case import Case
from ..diagnosis.expressions import name_of
from ..tolerance.judge import OutputVerdict, Right, constant_factor, format_factor
from .step import Step

_PLAIN = ("0", "-1", "2", "1/2")  # expressions that add nothing to the number


def factor_of(step: Step, right: Right, got: np.ndarray) -> str:
    """The factor c if got = c right everywhere, with its expression if it has one: "0.5 = 1/s". Else empty.

    It is "0" if all that came is as small as rounding.
    """
    factor = constant_factor(right, got)
    if factor is None:
        return ""
    error = float(np.sum(np.abs(right.value) * right.allowed)) / float(np.sum(right.value**2))
    if np.all(np.abs(got) <= right.allowed):
        return "0"
    case = Case("lora_linear", "", step.dtype, step.config, step.arrays)
    expression = name_of([(case, factor, error)])
    return format_factor(factor) + (f" = {expression}" if expression and expression not in _PLAIN else "")


def with_note(verdict: OutputVerdict, note: str) -> OutputVerdict:
    """The verdict with another note added."""
    notes = "; ".join(text for text in (verdict.note, note) if text)
    return OutputVerdict(verdict.verdict, verdict.error, verdict.allowed, notes)
