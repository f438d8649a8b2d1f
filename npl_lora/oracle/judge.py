"""Judging one answer: each output against the right one, element by element.

An error is |got - right| in units of the output's size there (the same expression evaluated with absolute values). It
is allowed up to what `rounding` derives for a right implementation of the case's precision: the smaller of a
worst-case bound and of many standard deviations, widened by what the oracle itself rounds in float64. Where the size
is 0, every term is 0 and so must the answer be. NaN never passes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .case import Case
from .rounding import PRECISIONS, Precision, Rounded, RoundingNamespace


@dataclass(frozen=True)
class Right:
    """The right answer for one output: values in float64, their size, how far a right implementation may be off, and
    the standard deviation of its error."""

    value: np.ndarray
    size: np.ndarray
    allowed: np.ndarray
    deviation: np.ndarray


@dataclass(frozen=True)
class OutputVerdict:
    """error and allowed are those of the worst element, in units of its size; None where they cannot be said."""

    verdict: str
    error: float | None
    allowed: float | None
    note: str = ""


def right_answer(case: Case, answer: Callable[..., dict[str, Any]]) -> dict[str, Right]:
    """The right answer for every output that the case asks for, from answer(arrays, config)."""
    precision = PRECISIONS[case.dtype]
    xp = RoundingNamespace(precision)
    outputs = answer({name: xp.exact(array) for name, array in case.arrays.items()}, case.config)
    return {name: right_output(output, precision) for name, output in outputs.items()}


def right_output(output: Rounded, precision: Precision) -> Right:
    deviation = np.sqrt(output.var)
    allowed = np.minimum(precision.margin * output.error, precision.deviations * deviation)
    oracle = 1.0 + 2.0**-53 / precision.store
    return Right(output.value, output.size, np.where(output.size == 0, 0.0, oracle * allowed), deviation)


def judge(right: Mapping[str, Right], outputs: Mapping[str, np.ndarray]) -> dict[str, OutputVerdict]:
    """A verdict for every output that was asked for or given."""
    verdicts = {}
    for name, expected in right.items():
        if name not in outputs:
            given = ", ".join(outputs) or "nothing"
            verdicts[name] = OutputVerdict("fail", None, None, f"{name} is missing (got {given})")
        else:
            verdicts[name] = judge_output(expected, np.asarray(outputs[name]))
    for name in outputs:
        if name not in right:
            verdicts[name] = OutputVerdict("fail", None, None, f"{name} is not an output (asked: {', '.join(right)})")
    return verdicts


def judge_output(right: Right, got: np.ndarray) -> OutputVerdict:
    """One array against the right one."""
    if got.dtype.kind != "f":
        return OutputVerdict("fail", None, None, f"dtype {got.dtype}, expected a floating dtype")
    if got.shape != right.value.shape:
        return OutputVerdict("fail", None, None, f"shape {got.shape}, expected {right.value.shape}")
    if got.size == 0:
        return OutputVerdict("pass", 0.0, 0.0)
    finite = np.isfinite(got)
    if not finite.all():
        where = _index(np.argmin(finite), got.shape)
        count = int((~finite).sum())
        return OutputVerdict(
            "fail", None, None, f"not finite{where}: {got.flat[np.argmin(finite)]} ({count:,} of {got.size:,})"
        )
    # float64 for what is judged, longdouble answers included: the right values are float64's.
    error = np.abs(got.astype(np.float64) - right.value)
    wrong = ~(error <= right.allowed)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error == 0, 0.0, error / right.allowed)
    worst = int(np.argmax(ratio))
    size = right.size.flat[worst]
    relative = float(error.flat[worst] / size) if size else (None if error.flat[worst] else 0.0)
    allowed = float(right.allowed.flat[worst] / size) if size else 0.0
    if not wrong.any():
        return OutputVerdict("pass", relative, allowed)
    return OutputVerdict("fail", relative, allowed, _describe(right, got, wrong, worst))


def _describe(right: Right, got: np.ndarray, wrong: np.ndarray, worst: int) -> str:
    factor = constant_factor(right, got)
    if factor is not None:
        return f"{factor:.6g} times the right answer, everywhere"
    return (
        f"got {got.flat[worst]:.6g}, expected {right.value.flat[worst]:.6g}{_index(worst, got.shape)}"
        f" ({int(wrong.sum()):,} of {got.size:,} wrong)"
    )


def constant_factor(right: Right, got: np.ndarray) -> float | None:
    """The factor c when got = c right within what is allowed, everywhere; None when there is none."""
    value, answer = right.value, got.astype(np.float64)
    energy = float(np.sum(value * value))
    if energy == 0 or got.size < 2:
        return None
    factor = float(np.sum(value * answer)) / energy
    fits = np.abs(answer - factor * value) <= max(abs(factor), 1.0) * right.allowed
    return factor if fits.all() else None


def _index(flat: int | np.integer, shape: tuple[int, ...]) -> str:
    index = ", ".join(str(int(i)) for i in np.unravel_index(int(flat), shape))
    return f" at [{index}]" if index else ""
