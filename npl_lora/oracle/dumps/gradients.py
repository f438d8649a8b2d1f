"""dA and dB of a large step, in full.

The formulas are those of ops/lora_linear (steps 1 to 3 of its derivation),

    h  = x~ A^T         (N, r)          dB = s dy^T h
    dh = s dy B         (N, r)          dA = dh^T x~

computed in blocks, because the op would hold everything in memory at once: h and dh by rows, dA and dB by columns of
x~ and dy. No sum is split, so the values are the op's own. Every product has r rows or columns: 8 N r (in + out)
operations in total.

The tolerance is the op's own, and a little more. `rounding` takes all roundings to be independent. But an
implementation may round a factor before it meets the tokens: s B in the place of B, or the sides of its products. Then
one error of B goes into dh at all tokens, and the sum over the tokens does not average it. With G = dy^T x~,

    dA_ki = s sum_o B_ok G_oi,  so dA has the further variance  u^2/3 s^2 sum_o B_ok^2 G_oi^2,

and dB likewise, with A_ki for B_ok, summed over i. G is as large as the base product. What adds up over the tokens is
their mean, so G_oi^2 is (sum_n dy_no)^2 (sum_n x~_ni / N)^2 here. What is left of G grows like sqrt(N), as independent
errors do.
"""

from collections.abc import Callable

import numpy as np

from ..tolerance.judge import Right, right_output
from ..tolerance.rounding import Rounded
from .pieces import join
from .progress import Progress
from .step import Step


def rows_of_h(step: Step, progress: Progress) -> Rounded:
    """h = x~ A^T, by rows."""
    A, rows = step.exact("A"), progress.track(step.blocks("..."), "h", step.sizes["..."])
    return step.xp.concat(tuple(step.masked_x(block) @ A.T for block in rows), axis=0)


def rows_of_dh(step: Step, progress: Progress) -> Rounded:
    """dh = s dy B, by rows."""
    B, rows = step.exact("B"), progress.track(step.blocks("..."), "dh", step.sizes["..."])
    return step.xp.concat(tuple(step.scale * (step.exact("dy", block) @ B) for block in rows), axis=0)


def right_dA(step: Step, dh: Rounded, progress: Progress) -> Right:
    """dh^T x~, by columns of x~."""
    blocks = progress.track(step.blocks("in"), "dA", step.sizes["in"])
    factor = _of_factor(step, step.block("B"), _sums(step, "out", lambda cols: step.block("dy", slice(None), cols)))
    pieces = []
    for cols in blocks:
        x = step.masked_x(slice(None), cols)
        product = dh.T @ x
        product.var = product.var + np.multiply.outer(factor, np.mean(x.value, axis=0) ** 2)
        pieces.append(right_output(product, step.precision))
    return join(pieces, axis=1)


def right_dB(step: Step, h: Rounded, progress: Progress) -> Right:
    """s dy^T h, by columns of dy."""
    blocks = progress.track(step.blocks("out"), "dB", step.sizes["out"])
    factor = _of_factor(step, step.block("A").T, _sums(step, "in", lambda cols: step.masked_x(slice(None), cols).value))
    pieces = []
    for cols in blocks:
        dy = step.exact("dy", slice(None), cols)
        product = step.scale * (dy.T @ h)
        product.var = product.var + np.multiply.outer(np.mean(dy.value, axis=0) ** 2, factor)
        pieces.append(right_output(product, step.precision))
    return join(pieces, axis=0)


def _sums(step: Step, axis: str, columns: Callable[[slice], np.ndarray]) -> np.ndarray:
    """The sums over the tokens of some columns after others."""
    return np.concatenate([np.sum(columns(cols), axis=0) for cols in step.blocks(axis)])


def _of_factor(step: Step, factor: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """u^2/3 s^2 sum_o B_ok^2 (sum_n dy_no)^2 for every rank k; u is the coarsest rounding that B may get."""
    p = step.precision
    u = max(p.store, p.factors, p.inputs)
    return (u * step.scale) ** 2 / 3.0 * (sums**2 @ factor**2)
