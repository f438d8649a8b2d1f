"""y and dx of a large step: every row is screened, and the rows that look worst are judged in full.

y = x W^T + b + s h B^T and dx = dy W + mask o (dh A) each consist of a base product of N in out multiplications and a
term of width r. To judge all of it, the base product would be computed several times: for its value, its size and its
variance. Instead:

1. The error E = got - right is screened by random sums. The columns are dealt into k = columns / 16 buckets, like
   cards. With random weights v, |v| uniform in [1, 2) and random signs,

       t_nj = sum_{o in bucket j} v_o E_no = sum v_o (got - rest)_no - (x (V W)^T)_nj,

   where V W is W with its rows summed in the same way, so the base product costs a sixteenth. The rest, b and the
   low-rank term, is computed in full.

2. The rows are sorted by their largest t^2 / variance. The variance is that of the model in rounding.py:

       var t_nj = sum v_o^2 ((in a^2 + u^2 / 3) Q_no + s^2 sum_k B_ok^2 var h_nk + u^2 (got^2 + rest^2)_no),

   with Q = sum_i (x_ni W_oi)^2, and u and a the unit roundoffs of stored values and of sums.

3. The _WORST rows, and _RANDOM others drawn at random, are judged in full, by the op, like any case.

The verdict depends on the elements in step 3 alone. Random sums only choose the rows and never fail one, so a right
answer is in no more danger here than in a small case, whatever the draw.

What can be missed. A row is judged in full if one of its t exceeds a level, that of the _WORST-th row of rounding
noise. This is about 5 standard deviations of a sum of 16 elements, so 5 * 4 = 20 of an element's, where 12 are allowed.
A single wrong element is in exactly one t, with |v| >= 1. So its row is certain to be judged if the element is off by
the level plus what noise can take away. For any number m of wrong elements in one bucket, v_o E_no has a density below
1 / (2 |E_no|), and so does every sum that contains it. The elements cancel to less than the level with probability at
most level / max |E|, independently in each bucket. So a row that is wrong in B buckets is missed with probability
(level / max |E|)^B. A fault in a fraction f of all rows, each off by more than is allowed but less than the level, is
missed with probability (1 - f)^_RANDOM.
"""

from dataclasses import dataclass, replace
from operator import itemgetter

import numpy as np

from ..contracts.lora_linear import forward
from ..tolerance.judge import OutputVerdict, Right, judge_output, right_output
from ..tolerance.rounding import Rounded
from .notes import factor_of, with_note
from .pieces import join, map_arrays
from .progress import Progress
from .step import Step, slices

_BUCKET = 16  # columns in a bucket
_WORST = 8  # rows judged in full because they look worst
_RANDOM = 8  # and rows drawn at random
_IN_FULL = 1 << 26  # multiplications in a base product of which every row is judged in full
_ROWS_IN_FULL = 1 << 21  # numbers in its rows

Array = np.ndarray


@dataclass(frozen=True)
class Side:
    """One of the two products. got = left W'^T + rest, W' (columns, K) being W for y and W^T for dx."""

    got: str
    left: str
    columns: str


Y = Side("y", "x", "out")
DX = Side("dx", "dy", "in")


def judge_rows(step: Step, side: Side, low: Rounded, progress: Progress) -> OutputVerdict:
    """The verdict on y (low = h) or dx (low = dh). If the step is small, every row is judged in full."""
    rows = step.sizes["..."]
    if _is_small(step) or rows <= _WORST + _RANDOM:
        picked = np.arange(rows)
        right = right_rows(step, side, picked, progress)
        return _judge_all_rows(step, side, low, right, picked)
    scores, noise = suspicion(step, side, low, progress)
    order = np.argsort(-scores, kind="stable")
    drawn = np.random.default_rng(1).choice(order[_WORST:], min(_RANDOM, rows - _WORST), replace=False)
    picked = np.concatenate([order[:_WORST], drawn])
    right = right_rows(step, side, picked, progress)
    verdict = _judge_picked_rows(step, side, low, right, picked)
    level = scores[order[_WORST - 1]] * noise / float(np.median(right.size[_WORST:]))
    note = (
        f"{picked.size} of {rows:,} rows judged in full, the others screened by random sums: a row with an element off"
        f" by more than about {level:.1e} of its size would have been judged in full"
    )
    return with_note(verdict, note) if verdict.verdict == "pass" else verdict


def _is_small(step: Step) -> bool:
    rows, in_, out = (step.sizes[axis] for axis in ("...", "in", "out"))
    return rows * in_ * out <= _IN_FULL and rows * (in_ + out) <= _ROWS_IN_FULL


def suspicion(step: Step, side: Side, low: Rounded, progress: Progress) -> tuple[Array, float]:
    """The score of each row, its largest |t| in standard deviations; and the median standard deviation of a t."""
    columns = step.sizes[side.columns]
    buckets = -(-columns // _BUCKET)
    v = _weights(columns)
    W1, W2 = _folded_weight(step, side, v, buckets)
    factor = _factor(step, side)
    factor2 = fold((factor**2).T, v**2, buckets)  # (r, buckets)
    spread = low.var * (step.scale**2 if side is Y else _largest_mask(step) ** 2)
    p = step.precision
    store, share = p.store, W1.shape[0] * p.accumulate**2 + (p.store**2 + 2.0 * p.factors**2 + 2.0 * p.inputs**2) / 3.0
    worst, noises = [], []
    for rows in progress.track(step.blocks("..."), f"{side.got}: random sums of all rows", step.sizes["..."]):
        left, got = step.block(side.left, rows), step.block(side.got, rows)
        rest = _low_rows(step, side, low.value, rows, factor)
        if side is Y and step.has("b"):
            rest = rest + step.block("b")
        t = fold(got - rest, v, buckets) - left @ W1
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            var = share * (left**2 @ W2) + spread[rows] @ factor2
            var += store**2 * fold(got**2 + rest**2, v**2, buckets)
            score = np.where(t == 0, 0.0, np.abs(t) / np.sqrt(var))
        worst.append(np.max(np.where(np.isfinite(var), score, np.inf), axis=1))
        noises.append(np.median(np.sqrt(var)))
    return np.concatenate(worst), float(np.median(noises))


def _weights(columns: int) -> Array:
    """Magnitudes in [1, 2), so no element is lost. The seed is fixed, so a dump always gives the same report."""
    rng = np.random.default_rng(0)
    return (1.0 + rng.random(columns)) * rng.choice([-1.0, 1.0], columns)


def fold(table: Array, v: Array, buckets: int) -> Array:
    """Add columns o, o + buckets, o + 2 buckets ..., weighted by v: (rows, columns) -> (rows, buckets)."""
    total = np.zeros((table.shape[0], buckets))
    for start in range(0, table.shape[1], buckets):
        block = table[:, start : start + buckets]
        total[:, : block.shape[1]] += block * v[start : start + buckets]
    return total


def _folded_weight(step: Step, side: Side, v: Array, buckets: int) -> tuple[Array, Array]:
    """W'^T and its squares with their columns folded by v and v^2, (K, buckets) each."""
    K = step.sizes["in" if side is Y else "out"]
    W1, W2 = np.empty((K, buckets)), np.empty((K, buckets))
    for k in slices(K, v.size):
        block = step.block("W", slice(None), k).T if side is Y else step.block("W", k)
        W1[k], W2[k] = fold(block, v, buckets), fold(block**2, v**2, buckets)
    return W1, W2


def _low_rows(step: Step, side: Side, low: Array, rows: slice | Array, factor: Array) -> Array:
    """The low-rank term in some rows: s h B^T, or mask o (dh A)."""
    term = low[rows] @ factor.T
    if side is Y:
        return step.scale * term
    return term * step.block("mask", rows) if step.has("mask") else term


def _largest_mask(step: Step) -> float:
    return max(float(np.max(step.block("mask", rows))) for rows in step.blocks("...")) if step.has("mask") else 1.0


def right_rows(step: Step, side: Side, picked: Array, progress: Progress) -> Right:
    """The right answer for some rows, in full. The op runs on slices of W, and each slice gives columns of y or dx."""
    pieces = []
    columns, across = step.sizes[side.columns], max(picked.size, step.sizes["in"], step.sizes["out"])
    for cols in progress.track(slices(columns, across), f"{side.got}: rows in full", columns):
        arrays = _columns_of_y(step, picked, cols) if side is Y else _columns_of_dx(step, picked, cols)
        exact = {name: step.xp.input(array) for name, array in arrays.items()}
        y, pullback = forward(exact, step.config)
        pieces.append(right_output(y if side is Y else pullback(exact["dy"], wrt=("x",))["x"], step.precision))
    return join(pieces, axis=1)


def _columns_of_y(step: Step, rows: Array, cols: slice) -> dict[str, Array]:
    """The inputs for columns of y: rows of W, B and b."""
    arrays = {"x": step.block("x", rows), "W": step.block("W", cols), "A": step.block("A")}
    arrays |= {name: step.block(name, cols) for name in ("B", "b") if step.has(name)}
    return arrays | ({"mask": step.block("mask", rows)} if step.has("mask") else {})


def _columns_of_dx(step: Step, rows: Array, cols: slice) -> dict[str, Array]:
    """The inputs for columns of dx: columns of W, A and the mask. dx does not depend on x."""
    A = step.block("A", slice(None), cols)
    arrays = {"x": np.zeros((rows.size, A.shape[1])), "W": step.block("W", slice(None), cols), "A": A}
    arrays |= {"B": step.block("B"), "dy": step.block("dy", rows)}
    return arrays | ({"mask": step.block("mask", rows)[:, cols]} if step.has("mask") else {})


def _judge_all_rows(step: Step, side: Side, low: Rounded, right: Right, picked: Array) -> OutputVerdict:
    """The verdict on all rows."""
    shape = (*step.leading, right.value.shape[1])
    verdict = judge_output(map_arrays(right, lambda t: t.reshape(shape)), step.block(side.got).reshape(shape))
    return verdict if verdict.verdict == "pass" else with_note(verdict, _low_factor(step, side, low, right, picked))


def _judge_picked_rows(step: Step, side: Side, low: Rounded, right: Right, picked: Array) -> OutputVerdict:
    """The verdict on the picked rows: on all of them if all are off by one factor, else on the worst row."""
    got = step.block(side.got, picked)
    verdict = judge_output(right, got)
    if verdict.verdict == "pass":
        return verdict
    verdicts = [judge_output(map_arrays(right, itemgetter(i)), got[i]) for i in range(picked.size)]
    wrong = sum(v.verdict == "fail" for v in verdicts)
    count = f"{wrong} of the {picked.size} rows judged in full are wrong"
    if factor_of(step, right, got):
        return with_note(verdict, count)
    worst = max(range(picked.size), key=lambda i: _ratio(verdicts[i]))
    place = [int(i) for i in np.unravel_index(picked[worst], step.leading)]
    note = f"row {place}: {verdicts[worst].note}; {count}"
    verdict = OutputVerdict("fail", verdicts[worst].error, verdicts[worst].allowed, note)
    return with_note(verdict, _low_factor(step, side, low, right, picked))


def _ratio(verdict: OutputVerdict) -> float:
    if verdict.error is None or not verdict.allowed:
        return 0.0 if verdict.error == 0.0 else np.inf
    return verdict.error / verdict.allowed


def _low_factor(step: Step, side: Side, low: Rounded, right: Right, rows: Array) -> str:
    """The factor on the low-rank term alone, as a note: the right remainder is subtracted from the answer.

    Empty if the term is smaller than the tolerance, because any factor would fit.
    """
    term = _low_rows(step, side, low.value, rows, _factor(step, side))
    if np.sum(term**2) <= np.sum(right.allowed**2):
        return ""
    got = step.block(side.got, rows) - (right.value - term)
    factor = factor_of(step, replace(right, value=term), got)
    if factor == "0":
        return "its low-rank term is missing"
    return f"its low-rank term is {factor} times the right one, everywhere" if factor else ""


def _factor(step: Step, side: Side) -> Array:
    """(columns, r): the last factor of the low-rank term, B or A^T."""
    return step.block("B") if side is Y else step.block("A").T
