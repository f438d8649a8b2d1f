"""cross_entropy: the mean of -log softmax(logits)[label] over the labels that count.

    loss = (1 / n) sum (log sum_v exp(logits_v) - logits_label)       the outer sum over the labels that count

A label counts unless it is ignore_index, and n is how many count. When a batch is cut into micro-batches whose
gradients accumulate, n is the number in the whole window and is given as `count`; then the losses and gradients of the
micro-batches simply add up. (A mean of the micro-batches' means would give a token more weight the fewer labels its
micro-batch has.) With n = 0 the loss is 0, and so is the gradient.

Derivation. For one position, with [v = label] equal to 1 when v is the label and 0 otherwise,

    d(log sum_u exp(logits_u)) / dlogits_v = softmax(logits)_v        d(logits_label) / dlogits_v = [v = label]

    dlogits = (dloss / n) (softmax(logits) - onehot(label))           zero where the label is ignored

Source: Bridle 1990 for the gradient. The mean over the window is what training on the whole batch at once would give.
"""

from __future__ import annotations

import math

from ._interface import Array, Pullback
from .checks import check_ids, check_inputs, check_integer
from .namespace import quotient, real, zero_dim


def cross_entropy(
    logits: Array,  # (..., V)
    labels: Array,  # (...), integers, already aligned with logits
    *,
    ignore_index: int = -100,  # the label that does not count
    count: int | None = None,  # n; by default the labels that count in this call
) -> tuple[Array, Pullback]:  # loss ()
    """loss = (sum over the labels that count of logsumexp(logits) - logits[label]) / count.

    Shapes: logits (..., V), labels (...) -> loss (), in the logits' dtype.

    labels are aligned with logits: a shift by one token is the caller's business.
    count: how many labels count in the whole accumulation window; by default those of this call.
    The pullback differentiates logits. Raises ValueError for a label that is neither ignored nor in 0 <= label < V.
    Derivation: at the top of npl_lora/ops/cross_entropy.py.
    """
    xp, n = check_inputs(logits=(logits, "... V"), labels=(labels, "...", "integer"))
    check_integer("ignore_index", ignore_index)
    labels = xp.astype(labels, xp.int64)  # a narrow dtype may be too small to count to V
    counted = labels != ignore_index
    safe = xp.where(counted, labels, xp.zeros_like(labels))
    check_ids("labels", safe, max(n["V"], 1), xp)
    if count is None:
        count = int(xp.sum(xp.astype(counted, xp.int64)))
    weight = quotient(xp, 1, max(check_integer("count", count, 0), 1))

    row_counts = xp.expand_dims(counted, axis=-1)
    chosen = xp.where(counted, labels, -xp.ones_like(labels))
    onehot = xp.expand_dims(chosen, axis=-1) == xp.arange(n["V"], dtype=xp.int64)
    zero = xp.zeros_like(logits[..., :1])
    used = xp.where(row_counts, logits, zero)  # the logits of an ignored label count for nothing, even if not finite
    shifted = used - xp.max(real(used), axis=-1, keepdims=True) if math.prod(logits.shape) else used
    e = xp.exp(shifted)
    total = xp.sum(e, axis=-1, keepdims=True)
    log_total = xp.where(row_counts, xp.log(total), xp.zeros_like(total))
    loss = zero_dim(weight * (xp.sum(log_total) - xp.sum(xp.where(onehot, shifted, zero))))

    def backward(dloss: Array, wrt: frozenset[str]) -> dict[str, Array]:
        if "logits" not in wrt:
            return {}
        p = xp.where(row_counts, e / total, zero)
        # forward was: loss = (1 / n) sum (log sum_v exp(logits_v) - logits_label)
        return {"logits": (weight * dloss) * (p - xp.astype(onehot, logits.dtype))}

    return loss, Pullback(backward, loss, inputs=("logits",))
