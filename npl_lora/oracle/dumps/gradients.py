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

    dA_ki = s sum_o B_ok G_oi,  so dA has the further variance  u^2/3 s^2 sum_o (B_ok G_oi)^2,

and dB likewise, with A_ki in the place of B_ok, summed over i. G is as large as the base product. But for random signs
e_o the square of sum_o e_o B_ok G_oi has this sum for its mean. So it is estimated by _DRAWS draws of signs, each of
which costs as much as dA. The mean of 16 such squares is below a quarter of the sum less than once in a thousand times,
and then 12 standard deviations are 6.
"""

import numpy as np

from ..tolerance.judge import Right, right_output
from ..tolerance.rounding import Rounded
from .pieces import join
from .progress import Progress
from .step import Step

_DRAWS = 16


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
    signed = _with_signs(step, "dy", step.block("B"), progress)
    pieces = []
    for cols in progress.track(step.blocks("in"), "dA", step.sizes["in"]):
        x = step.masked_x(slice(None), cols)
        product = dh.T @ x
        product.var = product.var + _of_factor(step, signed, x.value)
        pieces.append(right_output(product, step.precision))
    return join(pieces, axis=1)


def right_dB(step: Step, h: Rounded, progress: Progress) -> Right:
    """s dy^T h, by columns of dy."""
    signed = _with_signs(step, "x", step.block("A").T, progress)
    pieces = []
    for cols in progress.track(step.blocks("out"), "dB", step.sizes["out"]):
        dy = step.exact("dy", slice(None), cols)
        product = step.scale * (dy.T @ h)
        product.var = product.var + _of_factor(step, signed, dy.value).T
        pieces.append(right_output(product, step.precision))
    return join(pieces, axis=0)


def _with_signs(step: Step, name: str, factor: np.ndarray, progress: Progress) -> np.ndarray:
    """dy (e o B), or x~ (e o A)^T, for every draw of signs e: (N, draws, r)."""
    length, r = factor.shape
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (length, _DRAWS, 1))
    spread = (signs * factor[:, None]).reshape(length, -1)
    rows = progress.track(step.blocks("..."), "roundings that tokens share", step.sizes["..."])
    pieces = [(step.masked_x(block).value if name == "x" else step.block(name, block)) @ spread for block in rows]
    return np.concatenate(pieces).reshape(-1, _DRAWS, r)


def _of_factor(step: Step, signed: np.ndarray, other: np.ndarray) -> np.ndarray:
    """u^2/3 s^2 sum_o (B_ok G_oi)^2 for every rank k and column i; u is the coarsest rounding that B may get."""
    p = step.precision
    u = max(p.store, p.factors, p.inputs)
    sums = np.tensordot(signed, other, axes=(0, 0))  # (draws, r, columns)
    return (u * step.scale) ** 2 / 3.0 * np.mean(np.square(sums), axis=0)
