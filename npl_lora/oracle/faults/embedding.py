"""Faults of embeddings with LoRA."""

import numpy as np

from .fault import Array, Fault, as_numpy, backward, given


def _last_of_each(ids) -> np.ndarray:
    """Where each token stands for the last time, in the flattened ids."""
    flat = np.asarray(as_numpy(ids)).reshape(-1)
    return np.asarray([n for n in range(flat.size) if flat[n] not in flat[n + 1 :]], dtype=np.int64)


def _overwriting(op):
    """dA[:, id] = ..., where it should be +=."""

    def last(dA: Array, a) -> Array:
        at = _last_of_each(a.ids)
        xp = a.dy.__array_namespace__()
        flat_ids, flat_dy = xp.reshape(a.ids, (-1,)), xp.reshape(a.dy, (-1, a.dy.shape[-1]))
        how = {"scale": a.scale, "padding_idx": a.padding_idx}
        return op(flat_ids[at], a.E, a.A, a.B, **how)[1](flat_dy[at], wrt=("A",))["A"]

    return backward(A=last)(op)


def _not_counting_padding(op):
    """The padding token gets no update, so it counts neither in y nor in dB."""

    def wrong(ids, E, A, B, *, padding_idx=None, **how):
        if padding_idx is None:
            return op(ids, E, A, B, padding_idx=None, **how)
        xp = A.__array_namespace__()
        keep = np.arange(A.shape[1]) != padding_idx
        columns = [A[:, v : v + 1] * (1.0 if keep[v] else 0.0) for v in range(A.shape[1])]
        return op(ids, E, xp.concat(tuple(columns), axis=1), B, padding_idx=padding_idx, **how)

    return wrong


FAULTS = [
    Fault(
        "E1",
        "repeated ids overwrite each other in dA: only the last one of a token counts",
        "dA[:, id_n] = s B^T dy_n",
        "dA[:, id_n] += s B^T dy_n",
        "no id twice",
        "pytorch/pytorch#1528, #1631; apache/mxnet#9172; pymc-devs/pytensor#2242",
        parts={"lora_embedding": _overwriting},
    ),
    Fault(
        "E2",
        "padding_idx is ignored: its column of dA is not zero",
        "dA[:, padding_idx] = s B^T (sum of its dy)",
        "dA[:, padding_idx] = 0",
        "no padding token in the batch",
        "axolotl-ai-cloud/axolotl#3528",
        parts={"lora_embedding": given(padding_idx=lambda a: None)},
    ),
    Fault(
        "E6",
        "the padding token is left out of y and dB, where only its column of dA is zero",
        "y_pad = E[pad]",
        "y_pad = E[pad] + s B A[:, pad]",
        "no padding token in the batch",
        "the convention is torch's",
        parts={"lora_embedding": _not_counting_padding},
    ),
]
