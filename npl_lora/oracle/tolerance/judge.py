"""Judging one answer: each output against the right one, element by element.

An error is |got - right|, in units of the output's size there: the same expression evaluated with absolute values.
`rounding` derives how large it may be in the case's precision: the smaller of a worst-case bound and a number of
standard deviations. What `truncation` moves one way is added to the latter. The oracle's own rounding in float64 is
added. Where the size is 0, every term is 0, and the answer must be 0 too. An exact case allows no error. NaN never
passes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..case import Case
from ..definition import AnswerFunction
from ..dtypes import is_narrow
from .rounding import Precision, Rounded, precision_of
from .statistics import Distribution
from .truncation import namespace_of

_UNDERFLOW = 2.0**-1000  # what a variance may lack: squares below 2^-1074 are 0, and a sum has fewer than 2^74 of them


@dataclass(frozen=True)
class Right:
    """The right answer for one output: values in float64, their size, how far a right implementation may be off, the
    standard deviation of its error, and what it is proven not to pass (the bound of `rounding` times its margin).

    measured, rms and row_rms: how large error / deviation may be, everywhere, and its root mean square over the output
    and over each row of it (see `measured`).
    """

    value: np.ndarray
    size: np.ndarray
    allowed: np.ndarray
    deviation: np.ndarray
    proven: np.ndarray
    measured: float = np.inf
    rms: float = np.inf
    row_rms: float = np.inf

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape


@dataclass(frozen=True)
class OutputVerdict:
    """error and allowed are those of the worst element, in units of its size; None where they cannot be said."""

    verdict: str
    error: float | None
    allowed: float | None
    note: str = ""


def right_answer(case: Case, answer: AnswerFunction) -> dict[str, Right | Distribution]:
    """The right answer for every output that the case asks for, from answer(arrays, config)."""
    precision = precision_of(case.dtype, case.inner)
    xp = namespace_of(precision)
    outputs = case.asked(answer({name: xp.input(array) for name, array in case.arrays.items()}, case.config))
    as_exact = case.inner is None or (case.inner == "fp32" and not precision.inputs)  # fp32 is for float64 alone
    return {name: _right(output, precision, case.exact and as_exact) for name, output in outputs.items()}


def _right(output: Rounded | Distribution, precision: Precision, exact: bool) -> Right | Distribution:
    if isinstance(output, Distribution):
        return replace(output, u=precision.store)
    return right_output(output, precision, exact)


def right_output(output: Rounded, precision: Precision, exact: bool = False) -> Right:
    """The right answer that an error-carrying array is, and what may be off in this precision: nothing if exact."""
    oracle = 1.0 + 2.0**-53 / precision.store
    var = output.var + np.where(output.size > 0, _UNDERFLOW, 0.0)
    deviation, proven = oracle * np.sqrt(var), oracle * precision.margin * output.error
    allowed = np.fmin(proven, precision.deviations * deviation + output.moved)
    allowed = np.where(exact | (output.size == 0), 0.0, allowed)
    return Right(output.value, output.size, allowed, deviation, proven)


def judge(right: Mapping[str, Right | Distribution], outputs: Mapping[str, np.ndarray]) -> dict[str, OutputVerdict]:
    """A verdict for every output that was asked for or given."""
    verdicts = {}
    for name, expected in right.items():
        if name not in outputs:
            given = ", ".join(map(_named, list(outputs)[:20])) or "nothing"
            verdicts[name] = OutputVerdict("fail", None, None, f"missing (got {given})")
        else:
            verdicts[name] = judge_output(expected, np.asarray(outputs[name]))
    for name in outputs:
        if name not in right:
            note = f"not an output (asked: {', '.join(right)})"
            verdicts[_named(name)] = OutputVerdict("fail", None, None, note)
    return verdicts


def _named(name: str) -> str:
    """A name that somebody gave, fit for a line of a report."""
    return name if name.isidentifier() and len(name) <= 40 else ascii(name[:40])


def judge_output(right: Right | Distribution, got: np.ndarray) -> OutputVerdict:
    """One array against the right one, or against the distribution that it should be drawn from."""
    if is_narrow(got.dtype):
        got = got.astype(np.float32)
    if got.dtype.kind != "f":
        return OutputVerdict("fail", None, None, f"dtype {got.dtype}, expected a floating dtype")
    if got.shape != right.shape:
        turned = ": it is transposed" if got.shape == right.shape[::-1] else ""
        return OutputVerdict("fail", None, None, f"shape {got.shape}, expected {right.shape}{turned}")
    if got.size == 0:
        return OutputVerdict("pass", 0.0, 0.0)
    finite = np.isfinite(got)
    if not finite.all():
        where = _index(np.argmin(finite), got.shape)
        count = int((~finite).sum())
        return OutputVerdict(
            "fail", None, None, f"not finite{where}: {got.flat[np.argmin(finite)]} ({count:,} of {got.size:,})"
        )
    if isinstance(right, Distribution):
        found, allowed, note = right.objection(got.astype(np.float64))
        return OutputVerdict("fail" if note else "pass", found, allowed, note)
    # float64 for what is judged, longdouble answers included: the right values are float64's.
    error = np.abs(got.astype(np.float64) - right.value)
    wrong = ~(error <= right.allowed)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error == 0, 0.0, error / right.allowed)
    worst = int(np.argmax(ratio))
    size = right.size.flat[worst]
    relative = float(error.flat[worst] / size) if size else (None if error.flat[worst] else 0.0)
    allowed = float(right.allowed.flat[worst] / size) if size else 0.0
    if wrong.any():
        return OutputVerdict("fail", relative, allowed, _describe(right, got, wrong, worst))
    return _judge_rms(right, error) or OutputVerdict("pass", relative, allowed)


def _judge_rms(right: Right, error: np.ndarray) -> OutputVerdict | None:
    """Errors that are each small enough, and too large together."""
    scaled = root_mean_squares(error, right.deviation)
    for found, limit, where in zip(scaled, (right.rms, right.row_rms), ("all over", "in a row"), strict=True):
        if not found <= limit:
            relative = float(np.sqrt(np.mean(error**2) / np.mean(right.size**2)))
            note = f"more rounding than the dtype explains {where}: {found / limit:.2g} times what is allowed"
            return OutputVerdict("fail", relative, relative * limit / found, note)
    return None


def root_mean_squares(error: np.ndarray, deviation: np.ndarray) -> tuple[float, float]:
    """Of error / deviation: the root mean square, and the largest of the rows (over the last axis)."""
    known = deviation > 0
    squares = np.square(np.divide(error, deviation, out=np.zeros(error.shape), where=known))
    if not known.any():
        return 0.0, 0.0
    rows, counts = (np.sum(np.atleast_1d(t), axis=-1) for t in (squares, known))
    row = np.divide(rows, counts, out=np.zeros(rows.shape), where=counts > 0)
    return float(np.sqrt(rows.sum() / counts.sum())), float(np.sqrt(row.max()))


def _describe(right: Right, got: np.ndarray, wrong: np.ndarray, worst: int) -> str:
    factor = constant_factor(right, got)
    if factor is not None:
        return f"{format_factor(factor)} times the right answer, everywhere"
    error = abs(float(got.flat[worst]) - right.value.flat[worst])
    if error < 1e-5 * right.size.flat[worst]:
        relative, allowed = (t / right.size.flat[worst] for t in (error, right.allowed.flat[worst]))
        where = f"{_index(worst, got.shape)} ({int(wrong.sum()):,} of {got.size:,} wrong)"
        return f"off by {relative:.1e} of its size, where {allowed:.1e} is allowed{where}"
    allowed = right.allowed.flat[worst]
    rounding = "" if error > right.proven.flat[worst] else f": more rounding than the {allowed:.2g} that is allowed"
    return (
        f"got {got.flat[worst]:.6g}, expected {right.value.flat[worst]:.6g}{_index(worst, got.shape)}"
        f" ({int(wrong.sum()):,} of {got.size:,} wrong{rounding})"
    )


def format_factor(factor: float) -> str:
    """A factor as it is read: near 1, what it is off by."""
    off = factor - 1.0
    return f"1 {'+' if off > 0 else '-'} {abs(off):.2g}" if 0 < abs(off) < 1e-3 else f"{factor:.6g}"


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
