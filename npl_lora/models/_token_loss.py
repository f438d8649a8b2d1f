"""The loss of a language model's output layer, whose logits are never held whole.

    loss = cross_entropy(head(x), labels)

Rows whose label is ignored need no logits at all. The others are taken a block at a time, and as the loss is a number,
a sum over rows, the gradients of a block can be had at once: its logits (rows, V) are gone before the next one's come.
"""

from collections.abc import Iterable
from typing import Any

from ..ops import Pullback
from ..ops.compose import Gradients, Stage
from ..support.array import Array

_BLOCK = 1 << 22  # logits


def token_loss(
    head: Stage,
    width: int,
    labels: Array,
    x: Array,
    *,
    ops: Any,
    wrt: Iterable[str],
    ignore_index: int = -100,
    count: int | None = None,
) -> tuple[Array, Pullback]:
    """The mean over labels that are not ignored (count of them, if this is part of a larger batch) of -log p(label).

    head: x (N, C) -> logits (N, width) and their pullback. x (..., C), labels (...) -> loss (). wrt: the names that the
    pullback will be asked for, "x" among them or not: their gradients are computed here, and the pullback scales them.
    """
    xp, wrt = x.__array_namespace__(), tuple(wrt)
    rows, flat = xp.reshape(x, (-1, x.shape[-1])), xp.reshape(labels, (-1,))
    counted = xp.nonzero(flat != ignore_index)[0]
    count = counted.shape[0] if count is None else count
    step = max(16, _BLOCK // width)
    total, dx, grads = 0.0, xp.zeros_like(rows), Gradients(wrt)
    for start in range(0, max(1, counted.shape[0]), step):  # with nothing counted, a block of no rows: zeros
        at = counted[start : start + step]
        logits, pullback = head(rows[at])
        part, ce_pullback = ops.cross_entropy(logits, flat[at], ignore_index=ignore_index, count=count)
        total = total + part
        if wrt:
            dx[at] = grads.through(pullback, ce_pullback(1.0)["logits"], "x")
    found = {"x": xp.reshape(dx, x.shape), **grads}

    def backward(dloss: Array, wanted: frozenset[str]) -> dict[str, Array]:
        return {name: dloss * found[name] for name in wanted}

    return total, Pullback(backward, total, inputs=tuple(name for name in found if name in wrt))
