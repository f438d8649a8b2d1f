"""Faults of embeddings with LoRA."""

import numpy as np

from ...support.array import Array
from .fault import Fault
from .wraps import as_numpy, with_arguments, with_gradients, with_outputs, with_question


def _last_occurrences(ids) -> np.ndarray:
    """The position of each token's last occurrence in the flattened ids."""
    flat = np.asarray(as_numpy(ids)).reshape(-1)
    return np.asarray([n for n in range(flat.size) if flat[n] not in flat[n + 1 :]], dtype=np.int64)


def _overwrite(op):
    """dA[:, id] = ... instead of +=."""

    def last(dA: Array, a) -> Array:
        at = _last_occurrences(a.ids)
        xp = a.dy.__array_namespace__()
        flat_ids, flat_dy = xp.reshape(a.ids, (-1,)), xp.reshape(a.dy, (-1, a.dy.shape[-1]))
        settings = {"scale": a.scale, "padding_idx": a.padding_idx}
        return op(flat_ids[at], a.E, a.A, a.B, **settings)[1](flat_dy[at], wrt=("A",))["A"]

    return with_gradients(A=last)(op)


def _average_repeats(dA, a):
    """dA divided by how often each id occurs."""
    ids = np.asarray(as_numpy(a.ids)).reshape(-1)
    return dA * (1.0 / np.maximum(np.bincount(ids, minlength=a.A.shape[1]), 1))


def _leave_out_padding(op):
    """The padding token gets no low-rank update, so it adds nothing to y or to dB."""

    def wrong(ids, E, A, B, *, padding_idx=None, **settings):
        if padding_idx is None:
            return op(ids, E, A, B, padding_idx=None, **settings)
        xp = A.__array_namespace__()
        keep = np.arange(A.shape[1]) != padding_idx
        columns = [A[:, v : v + 1] * (1.0 if keep[v] else 0.0) for v in range(A.shape[1])]
        return op(ids, E, xp.concat(tuple(columns), axis=1), B, padding_idx=padding_idx, **settings)

    return wrong


def _without_own_scale(gradient, arrays, config):
    return gradient / config["embed_scale"]


def _with_scale(change):
    """LoRA's scale changed by change(s, e), e the embedding's own."""

    def wrap(answer):
        def wrong(arrays, config, d):
            other = d.wrapped(scale=lambda scale: lambda config: change(scale(config), config["embed_scale"]))
            return answer(arrays, config, other)

        return wrong

    return {"lora_scaled_embedding": wrap}


FAULTS = [
    Fault(
        "E1",
        says="repeated ids overwrite each other in dA: only the last occurrence of a token counts",
        wrong="dA[:, id_n] = s B^T dy_n",
        right="dA[:, id_n] += s B^T dy_n",
        hidden_when="no id occurs twice",
        seen_in="pytorch/pytorch#1528, #1631; apache/mxnet#9172; pymc-devs/pytensor#2242",
        parts={"lora_embedding": _overwrite},
    ),
    Fault(
        "E1",
        variant="mean",
        says="the gradients of repeated ids are averaged, not added",
        wrong="dA[:, v] = s B^T (mean of the dy_n with id_n = v)",
        right="dA[:, v] = s B^T (sum of the dy_n with id_n = v)",
        hidden_when="no id occurs twice",
        seen_in="torch's Embedding with scale_grad_by_freq=True; pytorch/pytorch#84491",
        parts={"lora_embedding": with_gradients(A=_average_repeats)},
    ),
    Fault(
        "E2",
        says="padding_idx is ignored: its column of dA is not zero",
        wrong="dA[:, padding_idx] = s B^T (sum of its dy)",
        right="dA[:, padding_idx] = 0",
        hidden_when="the batch has no padding token",
        seen_in="axolotl-ai-cloud/axolotl#3528",
        parts={"lora_embedding": with_arguments(padding_idx=lambda a: None)},
    ),
    Fault(
        "E6",
        says="the padding token is left out of y and dB, but only its column of dA should be zero",
        wrong="y_pad = E[pad]",
        right="y_pad = E[pad] + s B A[:, pad]",
        hidden_when="the batch has no padding token",
        seen_in="code that departs from torch's convention",
        parts={"lora_embedding": _leave_out_padding},
    ),
    Fault(
        "E3",
        says="the embedding's own scale is missing on the low-rank path",
        wrong="y = e E[ids] + s (A^T)[ids] B^T",
        right="y = e (E[ids] + s (A^T)[ids] B^T)",
        hidden_when="the embedding has no scale of its own",
        seen_in="huggingface/peft#2809, #2825",
        answers=_with_scale(lambda s, e: s / e),
    ),
    Fault(
        "E3",
        variant="twice",
        says="the embedding's own scale is applied twice on the low-rank path",
        wrong="y = e E[ids] + e^2 s (A^T)[ids] B^T",
        right="y = e (E[ids] + s (A^T)[ids] B^T)",
        hidden_when="the embedding has no scale of its own",
        seen_in="hand-written embeddings",
        answers=_with_scale(lambda s, e: s * e),
    ),
    Fault(
        "E3",
        variant="backward",
        says="dA and dB lack the embedding's own scale",
        wrong="dB = s dy^T (A^T)[ids]",
        right="dB = e s dy^T (A^T)[ids]",
        hidden_when="the embedding has no scale of its own",
        seen_in="hand-written backward passes",
        answers={"lora_scaled_embedding": with_outputs(dA=_without_own_scale, dB=_without_own_scale)},
    ),
    Fault(
        "E7",
        says="the embedding's own scale is ignored",
        wrong="y = E[ids] + s (A^T)[ids] B^T",
        right="y = e (E[ids] + s (A^T)[ids] B^T)",
        hidden_when="the embedding has no scale of its own",
        seen_in="hand-written embeddings",
        answers={"lora_scaled_embedding": with_question(config=lambda arrays, config: {"embed_scale": 1.0})},
    ),
]
