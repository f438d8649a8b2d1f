"""Faults of the loss where a label is certain or impossible: exp overflows, or a probability is 0 to the last bit."""

import math

import numpy as np

from .fault import Fault
from .wraps import as_numpy

_EXP_OVERFLOWS, _EXP_UNDERFLOWS = 709.0, -745.0  # in float64, and so in every dtype
_CLIP = 1e-7


def _counted(arrays, config):
    """The logits (B, T - 1, V) that predict, the labels (B, T - 1), and which of these count."""
    logits, labels = (np.asarray(as_numpy(arrays[name])) for name in ("logits", "labels"))
    labels = labels[:, 1:]
    return logits[:, :-1].astype(np.float64), labels, labels != config["ignore_index"]


def _shifted(arrays, config):
    """log p of every token but for the softmax's sum, which is between 1 and V; and log p of the labels that count."""
    logits, labels, counted = _counted(arrays, config)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted, shifted[counted, labels[counted]]


def _with_loss(change):
    """Add change(arrays, config) to the loss. The gradient stays right."""

    def wrap(answer):
        def wrong(arrays, config, d):
            right = answer(arrays, config, d)
            return {**right, "loss": right["loss"] + change(arrays, config)}

        return wrong

    return wrap


def _overflow(answer):
    """exp(logits) without the maximum subtracted: inf / inf where it overflows, and the loss is inf or NaN."""

    def wrong(arrays, config, d):
        right = answer(arrays, config, d)
        logits, _, counted = _counted(arrays, config)
        beyond = (logits > _EXP_OVERFLOWS) & counted[..., None]
        if not beyond.any():
            return right
        spoilt = np.concatenate((np.where(beyond, math.nan, 0.0), np.zeros_like(logits[:, :1])), axis=1)
        dlogits = right["dlogits"] + right["dlogits"].__array_namespace__().asarray(spoilt)
        return {"loss": right["loss"] + math.inf, "dlogits": dlogits}

    return wrong


def _log_of_zero(arrays, config):
    _, of_labels = _shifted(arrays, config)
    return math.inf if (of_labels < _EXP_UNDERFLOWS).any() else 0.0


def _zero_times_infinity(arrays, config):
    shifted, _ = _shifted(arrays, config)
    _, _, counted = _counted(arrays, config)
    return math.nan if (shifted[counted] < _EXP_UNDERFLOWS).any() else 0.0


def _clipped(answer):
    """-log(max(p, 1e-7)), with no gradient where p is clipped, at either end."""

    def wrong(arrays, config, d):
        right = answer(arrays, config, d)
        logits, labels, counted = _counted(arrays, config)
        shifted = logits - logits.max(axis=-1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        of_label = np.take_along_axis(log_p, np.where(counted, labels, 0)[..., None], axis=-1)[..., 0]
        lost = counted & (of_label < math.log(_CLIP))
        if not lost.any():
            return right
        loss = right["loss"] + float(np.sum(of_label[lost] - math.log(_CLIP))) / int(counted.sum())
        kept = np.concatenate((~lost, np.ones_like(lost[:, :1])), axis=1)[..., None]
        return {"loss": loss, "dlogits": right["dlogits"] * right["dlogits"].__array_namespace__().asarray(kept * 1.0)}

    return wrong


FAULTS = [
    Fault(
        "T25",
        says="the largest logit is not subtracted before exp: a large one overflows, and inf / inf is NaN",
        wrong="exp(logits_v) / sum_u exp(logits_u)",
        right="exp(logits_v - m) / sum_u exp(logits_u - m), m the largest logit",
        hidden_when="the logits are small",
        seen_in="hand-written losses",
        answers={"cross_entropy": _overflow},
    ),
    Fault(
        "T26",
        says="the loss is the logarithm of a probability that is 0 to the last bit: it is infinite",
        wrong="-log(softmax(logits)_label)",
        right="log sum_v exp(logits_v) - logits_label",
        hidden_when="no label is impossible",
        seen_in="hand-written losses",
        answers={"cross_entropy": _with_loss(_log_of_zero)},
    ),
    Fault(
        "T26",
        variant="one-hot",
        says="the loss multiplies the one-hot label with logarithms of 0: 0 times infinity is NaN",
        wrong="-sum_v onehot_v log(softmax(logits)_v)",
        right="log sum_v exp(logits_v) - logits_label",
        hidden_when="no token of the vocabulary is impossible",
        seen_in="hand-written losses",
        answers={"cross_entropy": _with_loss(_zero_times_infinity)},
    ),
    Fault(
        "T27",
        says="the probability of the label is clipped to at least 1e-7, and what is clipped has no gradient",
        wrong="-log(max(softmax(logits)_label, 1e-7))",
        right="log sum_v exp(logits_v) - logits_label",
        hidden_when="no label is impossible",
        seen_in="losses that are given probabilities",
        answers={"cross_entropy": _clipped},
    ),
]
