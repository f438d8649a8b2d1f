"""Faults of batches whose rows each have an adapter of their own, as serving engines compute them."""

import numpy as np

from ...ops import Pullback
from ...ops.namespace import rows
from ...support.array import Array
from .fault import Fault
from .wraps import as_numpy, in_gradients, with_arguments


def _with_ids(change):
    """Every row gets another adapter: change(ids, K), on plain numbers."""

    def ids(a):
        changed = change(as_numpy(a.ids), a.A.shape[0])
        return a.ids.__array_namespace__().asarray(np.asarray(changed, dtype=np.int64))

    return {"lora_batched": with_arguments(ids=ids)}


def _with_ranks(change):
    """Every adapter has another rank: change(r, a)."""
    return {"lora_batched": with_arguments(ranks=lambda a: [change(r, a) for r in a.ranks])}


def _first(a):
    """The first adapter that a row has; adapter 0 if no row has one."""
    ids = as_numpy(a.ids)
    return int(ids[ids >= 0][0]) if np.any(ids >= 0) else 0


def _number_those_in_the_batch(ids, K):
    present = np.unique(ids[ids >= 0])
    return np.where(ids >= 0, np.searchsorted(present, ids), -1)


def _last_rows(ids, K):
    """Of the rows with one adapter the last one alone has it."""
    later = [n for n, k in enumerate(ids) if k in ids[n + 1 :]]
    return np.where(np.isin(np.arange(len(ids)), later), -1, ids)


def _leave_out(lora_batched):
    """Rows without an adapter are not computed: y and dx are 0 there."""

    def wrong(x, W, A, B, ids, **how):
        y, right = lora_batched(x, W, A, B, ids, **how)

        def kept(t):
            xp, computed = t.__array_namespace__(), as_numpy(ids) >= 0
            return xp.where(xp.asarray(computed.reshape(-1, *[1] * (t.ndim - 1))), t, xp.zeros_like(t))

        return kept(y), Pullback(lambda dy, wrt: right(kept(dy), wrt=wrt), y, right.inputs, right.frozen)

    return wrong


def _of_all_rows(lora_batched):
    """dA[k] and dB[k] as if every row of the batch had the adapter k."""

    def wrong(x, W, A, B, ids, **how):
        y, right = lora_batched(x, W, A, B, ids, **how)
        xp = ids.__array_namespace__()

        def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
            grads = right(dy, wrt=wrt)
            if factors := wrt & {"A", "B"}:
                every = [lora_batched(x, W, A, B, xp.asarray(np.full(ids.shape, k)), **how) for k in range(A.shape[0])]
                of = [pullback(dy, wrt=factors) for _, pullback in every]
                grads |= {name: xp.stack([t[name][k, ...] for k, t in enumerate(of)]) for name in factors}
            return grads

        return y, Pullback(backward, y, right.inputs, right.frozen)

    return wrong


def _rows(t, order):
    xp = t.__array_namespace__()
    return xp.take(t, xp.asarray(order), axis=0)


def _sorted(lora_batched):
    """The rows are sorted by adapter, and y is left in that order. The gradients are those of this value."""

    def wrong(x, W, A, B, ids, **how):
        order = np.argsort(as_numpy(ids), kind="stable")
        y, right = lora_batched(_rows(x, order), W, A, B, _rows(ids, order), **how)

        def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
            grads = right(dy, wrt=wrt)
            return {name: _rows(t, np.argsort(order)) if name == "x" else t for name, t in grads.items()}

        return y, Pullback(backward, y, right.inputs, right.frozen)

    return wrong


def _sorted_update(lora_batched):
    """The same in the low-rank path alone, which is added to the base path's rows in their own order."""

    def wrong(x, W, A, B, ids, *, b=None, **how):
        none = ids.__array_namespace__().asarray(np.full(ids.shape, -1))
        base, of_base = lora_batched(x, W, A, B, none, b=b, **how)
        low, of_low = _sorted(lora_batched)(x, 0.0 * W, A, B, ids, **how)
        y = base + low

        def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
            grads = of_base(dy, wrt=wrt)
            for name, low_grad in of_low(dy, wrt=wrt & {"x", "A", "B"}).items():
                grads[name] = grads[name] + low_grad
            return grads

        return y, Pullback(backward, y, of_base.inputs, of_base.frozen)

    return wrong


def _tiled(lora_batched):
    """Rows of several tokens are put one below the other, with the ids repeated as a whole."""

    def wrong(x, W, A, B, ids, **how):
        xp, tokens = x.__array_namespace__(), x.shape[1:-1]
        each = xp.asarray(np.tile(as_numpy(ids), int(np.prod(tokens))))
        y, right = lora_batched(rows(x), W, A, B, each, **how)
        y = xp.reshape(y, (*x.shape[:-1], y.shape[-1]))

        def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
            grads = right(rows(dy), wrt=wrt)
            return {name: xp.reshape(t, x.shape) if name == "x" else t for name, t in grads.items()}

        return y, Pullback(backward, y, right.inputs, right.frozen)

    return wrong


FAULTS = [
    Fault(
        "P1",
        says="a row gets the adapter of the row before it, as where segments overlap by one row",
        wrong="y_n with the adapter ids_(n - 1)",
        right="y_n with the adapter ids_n",
        hidden_when="all rows have the same adapter",
        seen_in="predibase/lorax#62",
        parts=_with_ids(lambda ids, K: np.concat((ids[:1], ids[:-1]))),
    ),
    Fault(
        "P1",
        variant="after",
        says="a row gets the adapter of the row after it, as where segments end a row too early",
        wrong="y_n with the adapter ids_(n + 1)",
        right="y_n with the adapter ids_n",
        hidden_when="all rows have the same adapter",
        seen_in="predibase/lorax#62; predibase/lorax#475, where rows are dropped and the segments stay",
        parts=_with_ids(lambda ids, K: np.concat((ids[1:], ids[-1:]))),
    ),
    Fault(
        "P2",
        says="all rows get what the first row has: its adapter, or none",
        wrong="y_n with the adapter ids_1",
        right="y_n with the adapter ids_n",
        hidden_when="all rows have the same adapter",
        seen_in="engines that take one adapter for a whole batch, as in modelscope/ms-swift#9847",
        parts=_with_ids(lambda ids, K: np.full(len(ids), ids[0]) if len(ids) else ids),
    ),
    Fault(
        "P2",
        variant="of-those-with-one",
        says="all rows that have an adapter get the first of these",
        wrong="y_n with the first adapter in the batch",
        right="y_n with the adapter ids_n",
        hidden_when="all rows have the same adapter, or none",
        seen_in="hand-written engines with one active adapter",
        parts={
            "lora_batched": with_arguments(
                ids=lambda a: a.ids.__array_namespace__().asarray(np.where(as_numpy(a.ids) >= 0, _first(a), -1))
            )
        },
    ),
    Fault(
        "P3",
        says="every row is scaled with the scale of the batch's first adapter",
        wrong="y_n = x_n W^T + s_(ids_1) (x_n A^T) B^T",
        right="y_n = x_n W^T + s_(ids_n) (x_n A^T) B^T",
        hidden_when="all adapters have the same scale",
        seen_in="sgl-project/sglang#4492, in review",
        parts={"lora_batched": with_arguments(scales=lambda a: [a.scales[_first(a)]] * len(a.scales))},
    ),
    Fault(
        "P4",
        says="every row is computed with the rank of the batch's first adapter: a larger rank is cut, and a smaller one"
        " reads the padding",
        wrong="A_k = A[k, : r_(ids_1)]",
        right="A_k = A[k, : r_k]",
        hidden_when="all adapters have the same rank",
        seen_in="kernels that take one rank for the whole batch",
        parts=_with_ranks(lambda r, a: a.ranks[_first(a)]),
    ),
    Fault(
        "P5",
        says="adapters of a larger rank than the first one are cut to its rank, for which the buffer was made",
        wrong="A_k = A[k, : min(r_k, r_1)]",
        right="A_k = A[k, : r_k]",
        hidden_when="no adapter has a larger rank than the first one",
        seen_in="sgl-project/sglang#7808",
        parts=_with_ranks(lambda r, a: min(r, a.ranks[0])),
    ),
    Fault(
        "P5",
        variant="block",
        says="the tail of the rank is lost: what does not fill a block of 2",
        wrong="A_k = A[k, : r_k - r_k mod 2]",
        right="A_k = A[k, : r_k]",
        hidden_when="the block divides every rank",
        seen_in="kernels that are right for some ranks alone, as in predibase/lorax#70",
        parts=_with_ranks(lambda r, a: r - r % 2 if r > 1 else r),
    ),
    Fault(
        "P6",
        says="the padding is read: every adapter is computed with all ranks of the buffer",
        wrong="A_k = A[k], B_k = B[k]",
        right="A_k = A[k, : r_k], B_k = B[k, :, : r_k]",
        hidden_when="the padding is zero, or nothing is padded",
        seen_in="kernels that loop over the largest rank, in buffers that an earlier adapter has used",
        parts=_with_ranks(lambda r, a: a.A.shape[1]),
    ),
    Fault(
        "P7",
        says="rows without an adapter get the first one",
        wrong="y_n = x_n W^T + s_1 (x_n A_1^T) B_1^T",
        right="y_n = x_n W^T",
        hidden_when="every row has an adapter",
        seen_in="engines that clamp the id -1 to 0; such rows are wrong in sgl-project/sglang#5928",
        parts=_with_ids(lambda ids, K: np.maximum(ids, 0)),
    ),
    Fault(
        "P7",
        variant="last",
        says="rows without an adapter get the last one: the id -1 counts from the end",
        wrong="y_n = x_n W^T + s_K (x_n A_K^T) B_K^T",
        right="y_n = x_n W^T",
        hidden_when="every row has an adapter",
        seen_in="A[ids] with an id of -1, in NumPy and torch",
        parts=_with_ids(lambda ids, K: ids % K),
    ),
    Fault(
        "P7",
        variant="left-out",
        says="rows without an adapter are left out: they do not get the base layer either",
        wrong="y_n = 0",
        right="y_n = x_n W^T",
        hidden_when="every row has an adapter",
        seen_in="kernels that write the rows of the segments alone",
        parts={"lora_batched": _leave_out},
    ),
    Fault(
        "P8",
        says="the rows are sorted by adapter and y is not put back in order",
        wrong="y = the rows of all adapters, one adapter after the other",
        right="y = these rows, each in its place",
        hidden_when="the rows come sorted by adapter",
        seen_in="engines that sort a batch by adapter",
        parts={"lora_batched": _sorted},
    ),
    Fault(
        "P8",
        variant="update",
        says="the low-rank path sorts the rows by adapter, and its result is added without being put back in order",
        wrong="y_n = x_n W^T + s (x_m A^T) B^T, where row m is the n-th of the sorted rows",
        right="y_n = x_n W^T + s (x_n A^T) B^T",
        hidden_when="the rows come sorted by adapter",
        seen_in="engines that sort a batch by adapter",
        parts={"lora_batched": _sorted_update},
    ),
    Fault(
        "P9",
        says="the batch is taken to be sorted by adapter: as many rows as an adapter has get it, but not the same ones",
        wrong="y_n with the n-th of the sorted ids",
        right="y_n with the adapter ids_n",
        hidden_when="the rows come sorted by adapter",
        seen_in="engines that count the rows of each adapter",
        parts=_with_ids(lambda ids, K: np.sort(ids)),
    ),
    Fault(
        "P10",
        says="adapters are numbered among those in the batch, but looked up among all",
        wrong="A[j] for the j-th adapter that has a row",
        right="A[k] for the adapter k",
        hidden_when="every adapter has a row",
        seen_in="engines with a loaded adapter that no row uses; it fails in predibase/lorax#510",
        parts=_with_ids(_number_those_in_the_batch),
    ),
    Fault(
        "P11",
        says="the last adapter is not known, and its rows get the base layer without a word",
        wrong="y_n = x_n W^T where ids_n = K",
        right="y_n = x_n W^T + s_K (x_n A_K^T) B_K^T",
        hidden_when="no row has the last adapter",
        seen_in="huggingface/peft#2090; vllm-project/vllm#34186",
        parts=_with_ids(lambda ids, K: np.where(ids == K - 1, -1, ids)),
    ),
    Fault(
        "P12",
        says="an adapter is overwritten while rows of the batch use it: rows of the first get the last one, which was"
        " loaded into its place",
        wrong="y_n with the adapter K where ids_n = 1",
        right="y_n with the adapter ids_n",
        hidden_when="there are as many places as adapters",
        seen_in="vllm-project/vllm#47724",
        parts=_with_ids(lambda ids, K: np.where(ids == 0, K - 1, ids)),
    ),
    Fault(
        "P13",
        says="dA and dB of an adapter are sums over all rows of the batch, not over its own",
        wrong="dA_k = sum over all n of s_k (dy_n B_k)^T x_n, and dB_k likewise",
        right="dA_k = sum over n with ids_n = k of s_k (dy_n B_k)^T x_n, and dB_k likewise",
        hidden_when="all rows have the same adapter",
        seen_in="hand-written backward passes",
        parts={"lora_batched": _of_all_rows},
    ),
    Fault(
        "P14",
        says="dA and dB hold the last row of each adapter alone: rows are written where they should be added up",
        wrong="dA[ids] = s (dy B)^T x, and dB likewise",
        right="dA[ids] += s (dy B)^T x row by row, and dB likewise",
        hidden_when="no adapter has two rows",
        seen_in="indexed assignment in NumPy and torch, in the place of add.at or index_add_",
        parts={name: in_gradients("A", "B")(wrap) for name, wrap in _with_ids(_last_rows).items()},
    ),
    Fault(
        "P15",
        says="ids are counted from 1, and 0 means no adapter",
        wrong="y_n with the adapter ids_n - 1",
        right="y_n with the adapter ids_n, and no adapter where it is -1",
        hidden_when="no row has an adapter",
        seen_in="hand-written engines that keep 0 for the base model",
        parts=_with_ids(lambda ids, K: np.maximum(ids - 1, -1)),
    ),
    Fault(
        "P16",
        says="the ids of rows of several tokens are tiled, not repeated: neighbouring tokens get the adapters of"
        " neighbouring rows",
        wrong="token t of row n with the adapter ids_((n T + t) mod N)",
        right="token t of row n with the adapter ids_n",
        hidden_when="each row has one token, or all rows have the same adapter",
        seen_in="hand-written engines that flatten a batch of prompts",
        parts={"lora_batched": _tiled},
    ),
]
