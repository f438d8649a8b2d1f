"""Identities between a step's own answers. They are used if an input is missing, so no right answer can be computed.

J1, without x or dy: the loss depends on A and B only through B A. Replace B by B (1 + e M) and A by (1 - e M) A, for
any M (r, r). B A changes only by terms in e^2, so <dB, B M> - <dA, M A> = 0. This holds for every M, hence

    B^T dB = dA A^T                                       (r, r)

(the trace says <dB, B> = <dA, A>). J1 is blind to a factor common to dA and dB.

J3, without W: each row of y - b is linear in the row of x, also with dropout, whose mask is a constant. With M_n the
matrix of row n, y_n - b = M_n x_n and dx_n = M_n^T dy_n, so

    <dx_n, x_n> = <dy_n, y_n - b>                         for each row n

J3 is blind to an error common to y and dx.

The tolerance. The rounding error of a right answer depends on the terms that were summed, and these are missing here. A
sum of K terms with random signs is about as large as the root of Q, the sum of their squares. So Q is estimated by the
square of the largest element nearby: in all of dA or dB, or in the row of y or dx. Let u and a be the unit roundoffs of
stored values and of sums. Each element then has the variance (K a^2 + 4 u^2) Q, where 4 counts the stores along the way
(plus two roundings where products may be coarser, or inputs be cast down). An identity is linear in the elements, so
the variances add up. Sums whose terms cancel far below that, such as gradients at an optimum, can be further off. Where
products may truncate their sides, four truncations on the way to each element may move both sides of an identity, each
by 4t of itself (see `tolerance.truncation`). An identity is weaker evidence than a right answer, and is used only if
there is no right answer.
"""

import math
from dataclasses import replace

import numpy as np

from ..tolerance.judge import OutputVerdict, Right, constant_factor, format_factor, judge_output
from .step import Step

_MANY = 1 << 20  # rows, assumed if the dump does not tell their number


def judge_J1(step: Step) -> OutputVerdict:
    """B^T dB against dA A^T."""
    A, B, dA, dB = (step.block(name) for name in ("A", "B", "dA", "dB"))
    rows = step.sizes["..."] or _MANY
    norms = np.max(np.abs(dB)) * np.linalg.norm(B, axis=0)[:, None] + np.max(np.abs(dA)) * np.linalg.norm(A, axis=1)
    size = np.abs(B).T @ np.abs(dB) + np.abs(dA) @ np.abs(A).T
    allowed = _deviation(step, rows + step.sizes["in"] + step.sizes["out"]) * norms
    got, value = B.T @ dB, dA @ A.T
    allowed = allowed + _moved(step) * (np.abs(got) + np.abs(value))
    return _compare(step, "B^T dB", got, "dA A^T", value, size, allowed)


def judge_J3(step: Step) -> OutputVerdict:
    """<dx, x> against <dy, y - b>, row by row."""
    blocks = zip(*(_J3_rows(step, rows) for rows in step.blocks("...")), strict=True)
    value, size, allowed, got = (np.concatenate(arrays).reshape(step.leading) for arrays in blocks)
    return _compare(step, "<dx, x>", got, "<dy, y - b>", value, size, allowed)


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
    """The error allowed in an element, in units of the largest element nearby."""
    p = step.precision
    return p.deviations * math.sqrt(terms * p.accumulate**2 + 4.0 * p.store**2 + 2.0 * p.factors**2 + 2.0 * p.inputs**2)


def _moved(step: Step) -> float:
    """How far truncation may move an element one way, in units of itself."""
    return 4.0 * step.precision.factors if step.precision.truncated else 0.0


def _compare(
    step: Step, left: str, got: np.ndarray, right: str, value: np.ndarray, size: np.ndarray, allowed: np.ndarray
) -> OutputVerdict:
    """The verdict on two expressions that should be equal, got and value."""
    other = Right(value, size, allowed, allowed / step.precision.deviations, allowed)
    verdict = judge_output(other, got)
    if verdict.verdict == "pass":
        return verdict
    factor = constant_factor(other, got)
    if factor is None:
        return replace(verdict, note=f"{left} against {right}: {verdict.note}")
    return replace(verdict, note=f"{left} is {format_factor(factor)} times {right}, everywhere")
