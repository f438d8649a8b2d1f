"""cross_entropy: the mean of -log softmax(logits)[label] over the labels that count.

    loss = (1 / n) sum over counted entries of  (log sum_v exp(logits_v) - logits_label)

n is the number of labels that differ from ignore_index. When a batch is cut into micro-batches that accumulate, n is
the number in the whole window, given as `count`; the micro-losses and micro-gradients then simply add up. A mean of
micro-means would weigh tokens by the company they keep. With n = 0 the loss is 0 and so is the gradient.

Derivation. d(log sum exp)/dlogits_v = softmax_v and d(logits_label)/dlogits_v = [v = label], so

    dlogits = (dloss / n) (softmax(logits) - onehot(label))      zero where the label is ignored

Source: Bridle 1990 for the gradient; the window's mean is what training on the whole batch at once would give.
"""

import math

from ._interface import Array, Pullback
from .checks import check_ids, check_inputs, check_integer
from .namespace import quotient, real, zero_dim


def cross_entropy(
    logits: Array, labels: Array, *, ignore_index: int = -100, count: int | None = None
) -> tuple[Array, Pullback]:
    """loss = sum over counted entries of (logsumexp(logits) - logits[label]) / count.

    logits (..., V), labels (...) integers, aligned (any shift is the caller's) -> loss (), in the logits' dtype.
    count: the labels that count in the whole accumulation window; by default those of this call.
    The pullback differentiates logits. Raises ValueError for a label that is neither ignored nor in 0 <= label < V.
    """
    xp, n = check_inputs(logits=(logits, "... V"), labels=(labels, "...", "integer"))
    check_integer("ignore_index", ignore_index)
    labels = xp.astype(labels, xp.int64)  # a narrow dtype need not be able to count to V
    counted = labels != ignore_index
    safe = xp.where(counted, labels, xp.zeros_like(labels))
    check_ids("labels", safe, max(n["V"], 1), xp)
    if count is None:
        count = int(xp.sum(xp.astype(counted, xp.int64)))
    weight = quotient(xp, 1, max(check_integer("count", count, 0), 1))

    seen = xp.expand_dims(counted, axis=-1)
    chosen = xp.where(counted, labels, -xp.ones_like(labels))
    onehot = xp.expand_dims(chosen, axis=-1) == xp.arange(n["V"], dtype=xp.int64)
    zero = xp.zeros_like(logits[..., :1])
    shown = xp.where(seen, logits, zero)  # an ignored position counts for nothing, even if it is not finite
    shifted = shown - xp.max(real(shown), axis=-1, keepdims=True) if math.prod(logits.shape) else shown
    e = xp.exp(shifted)
    total = xp.sum(e, axis=-1, keepdims=True)
    log_total = xp.where(seen, xp.log(total), xp.zeros_like(total))
    loss = zero_dim(weight * (xp.sum(log_total) - xp.sum(xp.where(onehot, shifted, zero))))

    def backward(dloss: Array, wrt: frozenset[str]) -> dict[str, Array]:
        if "logits" not in wrt:
            return {}
        p = xp.where(seen, e / total, zero)
        return {"logits": (weight * dloss) * (p - xp.astype(onehot, logits.dtype))}

    return loss, Pullback(backward, loss, inputs=("logits",))
