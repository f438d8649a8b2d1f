"""dA and dB of a large step, in full.

The formulas are those of ops/lora_linear (steps 1 to 3 of its derivation),

    h  = x~ A^T         (N, r)          dB = s dy^T h
    dh = s dy B         (N, r)          dA = dh^T x~

computed in blocks, because the op would hold everything in memory at once: h and dh by rows, dA and dB by columns of
x~ and dy. No sum is split, so the values and their tolerances are the op's own. Every product has r rows or columns:
8 N r (in + out) operations in total.
"""

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
    pieces = [right_output(dh.T @ step.masked_x(slice(None), cols), step.precision) for cols in blocks]
    return join(pieces, axis=1)


def right_dB(step: Step, h: Rounded, progress: Progress) -> Right:
    """s dy^T h, by columns of dy."""
    blocks = progress.track(step.blocks("out"), "dB", step.sizes["out"])
    products = (step.exact("dy", slice(None), cols).T @ h for cols in blocks)
    return join([right_output(step.scale * product, step.precision) for product in products], axis=0)
