"""Faults of kernels that leave out what does not fill their last block, or all blocks but the first.

A lost token still gets the base path: only the low-rank path, which such kernels add, stops before it.
"""

from ...ops.namespace import rows, take_rows
from .fault import Fault
from .wraps import compose, in_gradients, in_value, with_arguments, with_gradients

_TOKENS, _COLUMNS = 128, 1024  # a kernel's block
_NOTHING = -30000.0  # a logit that every dtype holds and whose exp is 0 in each


def _first(t, n, axis):
    """The first n along an axis (0 or -1); zeros for the rest."""
    xp = t.__array_namespace__()
    inside = xp.arange(t.shape[axis]) < n
    return xp.where(inside if axis == -1 else xp.expand_dims(inside, axis=1), t, xp.zeros_like(t))


def _mask(a):
    """Dropout's mask, or one that drops nothing."""
    if a.mask is not None:
        return a.mask
    dropped = a.x if hasattr(a, "x") else take_rows(a.A.T, a.ids)
    return dropped.__array_namespace__().ones_like(dropped)


def _all_but_last(n):
    return n - 1


def _whole_blocks(n):
    return n - n % 4


def _first_block(n):
    return min(n, _TOKENS)


def _lose_tokens(kept):
    """The low-rank path stops after kept(N) of N tokens."""

    def mask(a):
        every = _mask(a)
        tokens = rows(every)
        return every.__array_namespace__().reshape(_first(tokens, kept(tokens.shape[0]), 0), every.shape)

    return with_arguments(mask=mask)


def _lose_inputs(kept):
    """x A^T stops after kept(in) of the inputs."""
    return with_arguments(mask=lambda a: _first(_mask(a), kept(a.x.shape[-1]), -1))


def _lose_outputs(kept):
    """The low-rank path stops after kept(out) of the outputs, and dB after as many rows."""
    cut = lambda t: _first(t, kept(t.shape[0]), 0)  # noqa: E731
    return compose(with_arguments(B=lambda a: cut(a.B)), with_gradients(B=lambda dB, a: cut(dB)))


def _lose_labels(op):
    """The labels after the first block of tokens are taken for ignored ones; the mean is still over all that count."""

    def wrong(logits, labels, *, ignore_index, count=None):
        xp = labels.__array_namespace__()
        flat = xp.reshape(labels, (-1,))
        kept = xp.where(xp.arange(flat.shape[0]) < _TOKENS, flat, xp.full_like(flat, ignore_index))
        count = int(xp.sum(xp.astype(labels != ignore_index, xp.int64))) if count is None else count
        return op(logits, xp.reshape(kept, labels.shape), ignore_index=ignore_index, count=count)

    return wrong


def _lose_columns(a):
    """The logits with nothing in the columns after the first block. The label's own logit is read from memory."""
    xp = a.logits.__array_namespace__()
    column = xp.arange(a.logits.shape[-1])
    of_label = xp.expand_dims(a.labels, axis=-1) == column
    beyond = xp.where(of_label, a.logits, xp.full_like(a.logits, _NOTHING))
    return xp.where(column < _COLUMNS, a.logits, beyond)


def _with_embedding(wrap):
    return {"lora_linear": wrap, "lora_embedding": wrap}


_LAST = _lose_tokens(_all_but_last)
_FOURS = _lose_tokens(_whole_blocks)
_BLOCK = _lose_tokens(_first_block)

FAULTS = [
    Fault(
        "K1",
        says="the last token is left out of the low-rank path, in y and in all gradients",
        wrong="y_N = x_N W^T, dA and dB are sums over n < N",
        right="y_N = x_N W^T + s (x_N A^T) B^T, dA and dB are sums over n <= N",
        hidden_when="the test compares shapes, or looks at the first tokens only",
        seen_in="hand-written kernels with an index off by one",
        parts=_with_embedding(_LAST),
    ),
    Fault(
        "K1",
        variant="y",
        says="the last token of y lacks the low-rank path",
        wrong="y_N = x_N W^T",
        right="y_N = x_N W^T + s (x_N A^T) B^T",
        hidden_when="the test compares gradients, or looks at the first tokens only",
        seen_in="hand-written kernels with an index off by one",
        parts=_with_embedding(in_value(_LAST)),
    ),
    Fault(
        "K1",
        variant="dA",
        says="the last token is left out of dA",
        wrong="dA = sum over n < N of s (dy_n B)^T x_n",
        right="dA = sum over n <= N of s (dy_n B)^T x_n",
        hidden_when="the test compares values only",
        seen_in="hand-written kernels with an index off by one",
        parts=_with_embedding(in_gradients("A")(_LAST)),
    ),
    Fault(
        "K1",
        variant="dB",
        says="the last token is left out of dB",
        wrong="dB = sum over n < N of s dy_n^T (x_n A^T)",
        right="dB = sum over n <= N of s dy_n^T (x_n A^T)",
        hidden_when="the test compares values only",
        seen_in="hand-written kernels with an index off by one",
        parts=_with_embedding(in_gradients("B")(_LAST)),
    ),
    Fault(
        "K2",
        says="the tokens after the last full block of 4 are left out of the low-rank path, in y and in all gradients",
        wrong="y_n = x_n W^T for n > N - N mod 4, dA and dB are sums over n <= N - N mod 4",
        right="y_n = x_n W^T + s (x_n A^T) B^T, dA and dB are sums over n <= N",
        hidden_when="4 divides the number of tokens",
        seen_in="hand-written kernels without code for the rest of a loop",
        parts=_with_embedding(_FOURS),
    ),
    Fault(
        "K2",
        variant="y",
        says="the tokens of y after the last full block of 4 lack the low-rank path",
        wrong="y_n = x_n W^T for n > N - N mod 4",
        right="y_n = x_n W^T + s (x_n A^T) B^T",
        hidden_when="4 divides the number of tokens",
        seen_in="hand-written kernels without code for the rest of a loop",
        parts=_with_embedding(in_value(_FOURS)),
    ),
    Fault(
        "K2",
        variant="dA",
        says="the tokens after the last full block of 4 are left out of dA",
        wrong="dA = sum over n <= N - N mod 4 of s (dy_n B)^T x_n",
        right="dA = sum over n <= N of s (dy_n B)^T x_n",
        hidden_when="4 divides the number of tokens",
        seen_in="hand-written kernels without code for the rest of a loop",
        parts=_with_embedding(in_gradients("A")(_FOURS)),
    ),
    Fault(
        "K2",
        variant="dB",
        says="the tokens after the last full block of 4 are left out of dB",
        wrong="dB = sum over n <= N - N mod 4 of s dy_n^T (x_n A^T)",
        right="dB = sum over n <= N of s dy_n^T (x_n A^T)",
        hidden_when="4 divides the number of tokens",
        seen_in="hand-written kernels without code for the rest of a loop",
        parts=_with_embedding(in_gradients("B")(_FOURS)),
    ),
    Fault(
        "K3",
        says="the inputs after the last full block of 4 are left out of x A^T and of its gradients",
        wrong="x A^T = sum over i <= in - in mod 4 of x_i A_i, and dA_i = 0 beyond",
        right="x A^T = sum over i <= in of x_i A_i",
        hidden_when="4 divides the number of inputs",
        seen_in="hand-written kernels without code for the rest of a loop",
        parts={"lora_linear": _lose_inputs(_whole_blocks)},
    ),
    Fault(
        "K4",
        says="the outputs after the last full block of 4 are left out of the low-rank path, in y and in all gradients",
        wrong="y_o = x W_o^T and dB_o = 0 for o > out - out mod 4",
        right="y_o = x W_o^T + s (x A^T) B_o^T, dB_o = s dy_o^T (x A^T)",
        hidden_when="4 divides the number of outputs",
        seen_in="hand-written kernels without code for the rest of a loop",
        parts=_with_embedding(_lose_outputs(_whole_blocks)),
    ),
    Fault(
        "K5",
        says="the tokens after the first block of 128 are left out of the low-rank path, in y and in all gradients",
        wrong="y_n = x_n W^T for n > 128, dA and dB are sums over n <= 128",
        right="y_n = x_n W^T + s (x_n A^T) B^T, dA and dB are sums over n <= N",
        hidden_when="there are at most 128 tokens",
        seen_in="hand-written kernels that are started for one block",
        parts={"lora_linear": _BLOCK},
    ),
    Fault(
        "K5",
        variant="dA",
        says="the tokens after the first block of 128 are left out of dA",
        wrong="dA = sum over n <= 128 of s (dy_n B)^T x_n",
        right="dA = sum over n <= N of s (dy_n B)^T x_n",
        hidden_when="there are at most 128 tokens",
        seen_in="hand-written kernels whose blocks do not add up their sums",
        parts={"lora_linear": in_gradients("A")(_BLOCK)},
    ),
    Fault(
        "K5",
        variant="dB",
        says="the tokens after the first block of 128 are left out of dB",
        wrong="dB = sum over n <= 128 of s dy_n^T (x_n A^T)",
        right="dB = sum over n <= N of s dy_n^T (x_n A^T)",
        hidden_when="there are at most 128 tokens",
        seen_in="hand-written kernels whose blocks do not add up their sums",
        parts={"lora_linear": in_gradients("B")(_BLOCK)},
    ),
    Fault(
        "K6",
        says="the tokens after the first block of 128 are left out of the loss and of its gradient",
        wrong="(1 / n) sum over the first 128 tokens",
        right="(1 / n) sum over all tokens",
        hidden_when="there are at most 128 tokens",
        seen_in="hand-written kernels that are started for one block",
        parts={"cross_entropy": _lose_labels},
    ),
    Fault(
        "K7",
        says="the vocabulary after the first block of 1024 is left out of the softmax",
        wrong="log sum over v < 1024 of exp(logits_v), and dlogits_v = 0 beyond",
        right="log sum over v < V of exp(logits_v)",
        hidden_when="the vocabulary has at most 1024 tokens",
        seen_in="hand-written kernels without a loop over the blocks of a row",
        parts={"cross_entropy": with_arguments(logits=_lose_columns)},
    ),
    Fault(
        "K7",
        variant="gradient",
        says="the gradient of the logits is 0 after the first block of 1024 tokens of the vocabulary",
        wrong="dlogits_v = 0 for v >= 1024",
        right="dlogits_v = (softmax(logits)_v - [v = label]) / n",
        hidden_when="the vocabulary has at most 1024 tokens",
        seen_in="hand-written kernels without a loop over the blocks of a row",
        parts={"cross_entropy": with_gradients(logits=lambda dlogits, a: _first(dlogits, _COLUMNS, -1))},
    ),
]
