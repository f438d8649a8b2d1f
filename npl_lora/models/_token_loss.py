"""The loss of a language model's output layer, without holding all its logits in memory.

    loss = cross_entropy(head(x), labels)

A row whose label is ignored needs no logits. The other rows are computed a block at a time. The loss is a sum over
rows, so a block's gradients can be computed at once, and its logits (rows, V) are freed before the next block.
"""

from collections.abc import Iterable
from typing import Any

from ..ops import Pullback
from ..ops.compose import Gradients, Stage
from ..support.array import Array

_BLOCK = 1 << 22  # logits


def block_rows(width: int) -> int:
    """How many rows of logits are computed at a time."""
    return max(16, _BLOCK // width)


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
    """loss = the sum of -log p(label) over the labels that are not ignored, divided by count.

    head: x (N, C) -> logits (N, width). x (..., C), labels (...) -> loss (). count: by default the labels that are not
    ignored. wrt: the names whose gradients the pullback can give, which may include "x". The gradients are computed in
    the forward, and the pullback scales them.
    """
    xp, wrt = x.__array_namespace__(), tuple(wrt)
    rows, flat = xp.reshape(x, (-1, x.shape[-1])), xp.reshape(labels, (-1,))
    counted = xp.nonzero(flat != ignore_index)[0]
    count = counted.shape[0] if count is None else count
    step = block_rows(width)
    total, dx, grads = 0.0, xp.zeros_like(rows), Gradients(wrt)
    for start in range(
        0, max(1, counted.shape[0]), step
    ):  # if no label counts: one block without rows, which gives zeros
        at = counted[start : start + step]
        logits, pullback = head(rows[at])
        block_loss, ce_pullback = ops.cross_entropy(logits, flat[at], ignore_index=ignore_index, count=count)
        total = total + block_loss
        if wrt:
            dx[at] = grads.through(pullback, ce_pullback(1.0)["logits"], "x")
    scaled = {"x": xp.reshape(dx, x.shape), **grads}

    def backward(dloss: Array, wanted: frozenset[str]) -> dict[str, Array]:
        return {name: dloss * scaled[name] for name in wanted}

    return total, Pullback(backward, total, inputs=tuple(name for name in scaled if name in wrt))
