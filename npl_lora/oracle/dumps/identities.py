"""What must hold between a step's own answers when an input is missing and there is no right answer to compare with.

J1, without x or dy: the loss depends on A and B through B A alone. Replace B by B (1 + e M) and A by (1 - e M) A, for
any M (r, r): B A changes by terms in e^2 only, so <dB, B M> - <dA, M A> = 0, and as that holds for every M,

    B^T dB = dA A^T                                       (r, r)

(its trace is <dB, B> = <dA, A>). It is blind to a factor that dA and dB share.

J3, without W: y - b is linear in x, row by row, a dropout mask included, for it is a constant. With M_n the matrix of
row n, y_n - b = M_n x_n and dx_n = M_n^T dy_n, so

    <dx_n, x_n> = <dy_n, y_n - b>                         for each row n

It is blind to whatever y and dx share.

What is allowed. How far a right answer may be off follows from what was summed, and that is not there. A sum of K terms
of random signs is as large as the root of the sum Q of their squares, so Q is taken to be the square of the largest
element next to it: of all of dA or dB, of the row of y or dx. With u and a the unit roundoffs of stored values and of
sums, each element then has the variance (K a^2 + 4 u^2) Q, 4 being the stores on the way (and two roundings more where
products may be coarser, or inputs be cast down), and an identity, which is linear in the elements, adds them up. Sums
whose terms cancel far below that, such as gradients at an optimum, can be further off. Where products may truncate
their sides, four truncations on the way to each element may move both sides of an identity, each by 4t of itself (see
`tolerance.truncation`). An identity is weaker evidence than a right answer, and is used only where there is no right
answer.
"""

import math
from dataclasses import replace

import numpy as np

from ..tolerance.judge import OutputVerdict, Right, constant_factor, format_factor, judge_output
from .step import Step

_MANY = 1 << 20  # rows, where nothing says how many there were


def judge_J1(step: Step) -> OutputVerdict:
    """B^T dB against dA A^T."""
    A, B, dA, dB = (step.block(name) for name in ("A", "B", "dA", "dB"))
    rows = step.sizes["..."] or _MANY
    norms = np.max(np.abs(dB)) * np.linalg.norm(B, axis=0)[:, None] + np.max(np.abs(dA)) * np.linalg.norm(A, axis=1)
    size = np.abs(B).T @ np.abs(dB) + np.abs(dA) @ np.abs(A).T
    allowed = _deviation(step, rows + step.sizes["in"] + step.sizes["out"]) * norms
    got, value = B.T @ dB, dA @ A.T
    allowed = allowed + _moved(step) * (np.abs(got) + np.abs(value))
    return _compared(step, "B^T dB", got, "dA A^T", value, size, allowed)


def judge_J3(step: Step) -> OutputVerdict:
    """<dx, x> against <dy, y - b>, row by row."""
    parts = [_J3_rows(step, rows) for rows in step.blocks("...")]
    value, size, allowed, got = (np.concatenate(each).reshape(step.leading) for each in zip(*parts, strict=True))
    return _compared(step, "<dx, x>", got, "<dy, y - b>", value, size, allowed)


def _J3_rows(step: Step, rows: slice) -> tuple[np.ndarray, ...]:
    x, dy, y, dx = (step.block(name, rows) for name in ("x", "dy", "y", "dx"))
    if step.has("b"):
        y = y - step.block("b")
    per_y = _deviation(step, step.sizes["in"] + step.sizes["r"]) * np.max(np.abs(y), axis=1)
    per_dx = _deviation(step, step.sizes["out"] + step.sizes["r"]) * np.max(np.abs(dx), axis=1)
    allowed = per_y * np.linalg.norm(dy, axis=1) + per_dx * np.linalg.norm(x, axis=1)
    size = np.sum(np.abs(dx * x), axis=1) + np.sum(np.abs(dy * y), axis=1)
    allowed = allowed + _moved(step) * size  # y and dx are sums of two paths, which may be moved by different factors
    return np.sum(dy * y, axis=1), size, allowed, np.sum(dx * x, axis=1)


def _deviation(step: Step, terms: int) -> float:
    """How far an element may be off, in units of the largest next to it."""
    p = step.precision
    return p.deviations * math.sqrt(terms * p.accumulate**2 + 4.0 * p.store**2 + 2.0 * p.factors**2 + 2.0 * p.inputs**2)


def _moved(step: Step) -> float:
    """How far truncation may move an element one way, in units of itself."""
    return 4.0 * step.precision.factors if step.precision.truncated else 0.0


def _compared(
    step: Step, left: str, got: np.ndarray, right: str, value: np.ndarray, size: np.ndarray, allowed: np.ndarray
) -> OutputVerdict:
    """The verdict on got = value, two expressions that should be equal."""
    other = Right(value, size, allowed, allowed / step.precision.deviations, allowed)
    verdict = judge_output(other, got)
    if verdict.verdict == "pass":
        return verdict
    factor = constant_factor(other, got)
    said = f"{left} against {right}: {verdict.note}"
    note = said if factor is None else f"{left} is {format_factor(factor)} times {right}, everywhere"
    return replace(verdict, note=note)
