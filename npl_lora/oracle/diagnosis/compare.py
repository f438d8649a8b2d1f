"""How far a predicted output is from what came back: a quick comparison, and an exact one."""

from dataclasses import dataclass

import numpy as np

from ..case import widen
from ..definition import AnswerFunction
from ..report import Observed
from ..tolerance.judge import Right, judge_output
from ..tolerance.rounding import PRECISIONS
from ..tolerance.statistics import Distribution

_NEARER = 0.5
_FINER = 16.0  # the degree of a mistake is fitted, so what is left of the error must be smaller

Predicted = np.ndarray | Distribution
UNANSWERED = (ValueError, IndexError, TypeError, ArithmeticError)  # what a wrong definition may raise for a case


def predict(answer: AnswerFunction, one: Observed) -> dict[str, np.ndarray]:
    """What it answers, in plain numbers; {} where it raises."""
    try:
        with np.errstate(all="ignore"):
            outputs = answer(widen(one.case), one.case.config)
            return {name: np.asarray(t) for name, t in outputs.items() if np.asarray(t).dtype.kind == "f"}
    except UNANSWERED:
        return {}


def quick_distance(predicted: Predicted, one: Observed, name: str) -> float:
    """The largest error of an output, in units of a generous tolerance: below 1, it may be what came back.

    The prediction is a plain array, so its own error bounds are not known. The tolerance grows with its numbers.
    """
    assert one.outputs is not None
    right, got = one.right[name], one.outputs[name]
    if isinstance(predicted, Distribution):
        return 0.0 if judge_output(predicted, got).verdict == "pass" else np.inf
    if isinstance(right, Distribution):
        return 0.0 if np.array_equal(predicted, got) else np.inf
    if predicted.shape != got.shape or got.dtype.kind != "f" or not np.array_equal(np.isnan(predicted), np.isnan(got)):
        return np.inf
    beyond = overflown(predicted, got)
    if np.isinf(np.where(beyond, 0.0, predicted)).any():
        return np.inf
    expected, got = (np.nan_to_num(np.where(beyond, 0.0, t)) for t in (predicted, got.astype(np.float64)))
    difference = float(np.max(np.abs(expected - got), initial=0.0))
    tolerance = _tolerance(expected, one, right)
    return 0.0 if difference == 0 else difference / tolerance if tolerance else np.inf


@dataclass(frozen=True)
class Degree:
    """got is nearest to right + nearest (predicted - right). likeness: the cosine between the two errors.

    fits: the numbers that do in its place, within what is allowed, the shortest first; none where no number does.
    """

    nearest: float
    likeness: float
    fits: tuple[float, ...]


def degree(predicted: Predicted, one: Observed, name: str) -> Degree | None:
    """To what degree the error of an output is that of the prediction; None where it is not clear, for small errors
    point in any direction."""
    assert one.outputs is not None
    right, got = one.right[name], one.outputs[name]
    if isinstance(predicted, Distribution) or isinstance(right, Distribution):
        return None
    if got.dtype.kind != "f" or got.shape != right.shape:
        return None
    if predicted.shape != got.shape or not (np.isfinite(predicted).all() and np.isfinite(got).all()):
        return None
    error, direction = got.astype(np.float64) - right.value, predicted - right.value
    energy, tolerance = float(np.sum(direction * direction)), _tolerance(predicted, one, right) / _FINER
    if energy == 0 or not np.max(np.abs(error), initial=0.0) > 4.0 * tolerance:
        return None
    along = float(np.sum(error * direction))
    nearest, likeness = along / energy, abs(along) / float(np.sqrt(energy * np.sum(error * error)))
    numbers = dict.fromkeys([*(float(f"{nearest:.{digits}g}") for digits in (1, 2, 3)), nearest])
    fits = tuple(c for c in numbers if np.max(np.abs(error - c * direction)) <= tolerance)
    return Degree(nearest, likeness, fits)


def _tolerance(predicted: np.ndarray, one: Observed, right: Right) -> float:
    largest, scale = np.max(np.abs(predicted), initial=0.0), np.max(np.abs(right.value), initial=0.0)
    with np.errstate(over="ignore"):  # some wrong formulas give numbers of any size
        allowed = 8.0 * np.max(right.allowed, initial=0.0) * (1.0 + (largest / scale if scale else 0.0))
        return float(allowed + 256.0 * PRECISIONS[one.case.dtype].store * largest)


def error_ratio(predicted: Right | Distribution, got: np.ndarray) -> float:
    """The largest error / allowed of an output, where the prediction says what is allowed."""
    if isinstance(predicted, Distribution):
        return 0.0 if judge_output(predicted, got).verdict == "pass" else np.inf
    value = predicted.value
    if value.shape != got.shape or got.dtype.kind != "f" or not np.array_equal(np.isnan(value), np.isnan(got)):
        return np.inf
    with np.errstate(all="ignore"):
        error = np.where(np.isnan(value) | overflown(value, got), 0.0, np.abs(got.astype(np.float64) - value))
        return float(np.max(np.where(error == 0, 0.0, error / predicted.allowed), initial=0.0))


def is_nearer(got: np.ndarray, predicted: np.ndarray, right: np.ndarray) -> bool:
    """Whether what came back is much nearer to a prediction than to what is right: small errors are within what is
    allowed of many numbers. What is not finite is no small error, and was compared before."""
    with np.errstate(invalid="ignore", over="ignore"):
        left, error = got - predicted, got - right
        return not np.isfinite(error).all() or bool(np.linalg.norm(left) <= _NEARER * np.linalg.norm(error))


def overflown(expected: np.ndarray, got: np.ndarray) -> np.ndarray:
    """Where the expected value does not fit the dtype, and came back as an infinity of its sign."""
    too_large = np.abs(expected) > np.finfo(got.dtype).max
    return np.isinf(got) & (np.sign(expected) == np.sign(got)) & too_large


def changes(predicted: Predicted, right: Right | Distribution) -> bool:
    """Whether the prediction differs from the right answer by more than is allowed, so that the judge would see it."""
    if isinstance(predicted, Distribution) or isinstance(right, Distribution):
        return not (
            isinstance(predicted, Distribution) and isinstance(right, Distribution) and str(predicted) == str(right)
        )
    if predicted.shape != right.shape:
        return True
    with np.errstate(all="ignore"):
        return not bool(np.all(np.abs(predicted - right.value) <= right.allowed))
