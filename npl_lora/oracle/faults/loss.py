"""Faults of the loss: shifts, means, and which labels count."""

import math

import numpy as np

from .fault import Fault
from .wraps import as_numpy, with_question


def _with_labels(change):
    """Answer for other labels, change(labels, config). The change works on NumPy arrays."""

    def other(arrays, config):
        labels = arrays["labels"]
        return {"labels": _like(labels, change(np.asarray(as_numpy(labels)), config))}

    return with_question(arrays=other)


def _like(array, numbers):
    """numbers as an array of the same kind as `array`; in an error-carrying one they are exact."""
    return array.__array_namespace__().exact(numbers) if hasattr(array, "value") else numbers


def _shift(labels, config):
    rest = np.full_like(labels[:, :1], config["ignore_index"])
    return np.concatenate((labels[:, 1:], rest), axis=1)


def _ignore_first(labels, config):
    """Also ignore the first label of each answer: one that follows an ignored label, or is at the start."""
    counted = labels[:, 1:] != config["ignore_index"]
    before = np.concatenate((np.zeros_like(counted[:, :1]), counted[:, :-1]), axis=1)
    late = labels.copy()
    late[:, 1:][counted & ~before] = config["ignore_index"]
    return late


def _skip_shift(answer):
    def wrong(arrays, config, d):
        loss, pullback = d.cross_entropy(arrays["logits"], arrays["labels"], ignore_index=config["ignore_index"])
        return {"loss": loss, "dlogits": pullback(1.0)["logits"]}

    return wrong


def _label_counts(arrays, config) -> np.ndarray:
    """The number of labels that count in each micro-batch."""
    labels = np.asarray(as_numpy(arrays["labels"]))[:, 1:]
    chunks = np.split(labels, config["accumulation"])
    return np.asarray([np.sum(chunk != config["ignore_index"]) for chunk in chunks])


def _sum_of_means(weigh, empty=0.0):
    """The sum of the micro-batches' means, each times weigh(K). The mean over no labels is `empty`."""

    def wrap(answer):
        def wrong(arrays, config, d):
            K, counts = config["accumulation"], _label_counts(arrays, config)
            xp, size = arrays["logits"].__array_namespace__(), arrays["logits"].shape[0] // K
            losses, grads = [], []
            for k, count in enumerate(counts):
                chunk = {name: arrays[name][k * size : (k + 1) * size] for name in ("logits", "labels")}
                micro = answer(chunk, {**config, "accumulation": 1}, d)
                losses.append(micro["loss"] * weigh(K) + (0.0 if count else empty))
                grads.append(micro["dlogits"] * weigh(K))
            return {"loss": xp.sum(xp.stack(tuple(losses), axis=0)), "dlogits": xp.concat(tuple(grads), axis=0)}

        return wrong

    return wrap


def _mean_of_sequences(answer):
    """Each sequence for itself, and the mean of what they give."""
    of_rows = _sum_of_means(lambda K: 1.0 / K)(answer)
    return lambda arrays, config, d: of_rows(arrays, {**config, "accumulation": arrays["logits"].shape[0]}, d)


def _counted(arrays, config):
    """The labels as NumPy numbers, which of them count, and how many do, 1 at least."""
    labels = np.asarray(as_numpy(arrays["labels"]))[:, 1:]
    counted = labels != config["ignore_index"]
    return labels, counted, max(int(counted.sum()), 1)


def _one_hot(labels, arrays):
    """(B, T, V) with a place for the last position, whose logits predict nothing. A label below 0 has no 1."""
    rows = np.concatenate((labels, np.full_like(labels[:, :1], -1)), axis=1)
    return (rows[..., None] == np.arange(arrays["logits"].shape[-1])).astype(np.float64)


def _smooth(share):
    """The label has 1 - share of the probability, and all tokens the rest, as in torch's label_smoothing."""

    def wrap(answer):
        def wrong(arrays, config, d):
            right, (labels, counted, n) = answer(arrays, config, d), _counted(arrays, config)
            one_hot = _one_hot(np.where(counted, labels, -1), arrays)
            moved = (one_hot - one_hot.sum(axis=-1, keepdims=True) / one_hot.shape[-1]) * (share / n)
            xp = arrays["logits"].__array_namespace__()
            return {
                "loss": right["loss"] + xp.sum(arrays["logits"] * moved),
                "dlogits": right["dlogits"] + moved,
            }

        return wrong

    return wrap


def _keep_ignored(answer):
    """The softmax stays in the gradient where the label is ignored."""

    def wrong(arrays, config, d):
        labels, counted, n = _counted(arrays, config)
        first = np.where(counted, labels, 0)
        logits = arrays["logits"][:, :-1, :]
        _, pullback = d.cross_entropy(logits, _like(arrays["labels"], first), ignore_index=-100, count=n)
        of_all, right = pullback(1.0)["logits"], answer(arrays, config, d)
        ignored = _one_hot(np.where(counted, -1, 0), arrays) / n  # what is added where the label 0 was subtracted
        xp = logits.__array_namespace__()
        last = xp.zeros_like(arrays["logits"][:, -1:, :])
        return {**right, "dlogits": xp.concat((of_all, last), axis=1) + ignored}

    return wrong


def _multiply(factor):
    """Multiply the right answer by factor(arrays, config)."""

    def wrap(answer):
        def wrong(arrays, config, d):
            return {name: t * factor(arrays, config) for name, t in answer(arrays, config, d).items()}

        return wrong

    return wrap


def _share_of_labels(arrays, config):
    labels = np.asarray(as_numpy(arrays["labels"]))[:, 1:]
    return float(_label_counts(arrays, config).sum()) / labels.size


def _nan_loss(answer):
    """The loss of a window without labels is 0 / 0."""

    def wrong(arrays, config, d):
        right = answer(arrays, config, d)
        return right if _label_counts(arrays, config).any() else {**right, "loss": right["loss"] + math.nan}

    return wrong


def _assume_minus_100(answer):
    """Only -100 is ignored. Another ignore_index is a label like any other: -1 indexes the last token."""

    def last_token(arrays, config):
        if config["ignore_index"] == -100:
            return {}
        labels, V = np.asarray(as_numpy(arrays["labels"])), arrays["logits"].shape[-1]
        changed = np.where(labels == config["ignore_index"], V - 1, labels)
        return {"labels": _like(arrays["labels"], changed)}

    return with_question(arrays=last_token)(answer)


def _nan_loss_and_gradient(answer):
    def wrong(arrays, config, d):
        right = answer(arrays, config, d)
        return right if _label_counts(arrays, config).any() else {name: t + math.nan for name, t in right.items()}

    return wrong


def _nan_loss_of_micro_batch(answer):
    def wrong(arrays, config, d):
        right = answer(arrays, config, d)
        return right if _label_counts(arrays, config).all() else {**right, "loss": right["loss"] + math.nan}

    return wrong


FAULTS = [
    Fault(
        "T1",
        says="the loss is the mean of the micro-batches' means, so tokens of short micro-batches weigh more",
        wrong="(1 / K) sum_k (mean over micro-batch k)",
        right="the mean over all labels of the window",
        hidden_when="all micro-batches have equally many labels",
        seen_in="huggingface/blog#2414; unslothai/unsloth#1134; karpathy/nanochat#400",
        answers={"cross_entropy": _sum_of_means(lambda K: 1.0 / K)},
    ),
    Fault(
        "T1",
        variant="nan",
        says="the loss is the mean of the micro-batches' means, and is NaN when a micro-batch has no labels",
        wrong="(1 / K) sum_k (mean over micro-batch k)",
        right="the mean over all labels of the window",
        hidden_when="all micro-batches have equally many labels",
        seen_in="huggingface/blog#2414; ml-explore/mlx-lm#1355",
        answers={"cross_entropy": _sum_of_means(lambda K: 1.0 / K, math.nan)},
    ),
    Fault(
        "T1",
        variant="sequences",
        says="the loss is the mean of the sequences' means, so tokens of short sequences weigh more",
        wrong="(1 / B) sum_b (mean over sequence b)",
        right="the mean over all labels of the window",
        hidden_when="all sequences have equally many labels",
        seen_in="imoneoi/openchat#182, which has it as an option; eric-mitchell/direct-preference-optimization#67",
        answers={"cross_entropy": _mean_of_sequences},
    ),
    Fault(
        "T2",
        says="the micro-batches' means are added up but not divided by their number",
        wrong="sum_k (mean over micro-batch k)",
        right="the mean over all labels of the window",
        hidden_when="accumulation = 1",
        seen_in="karpathy/nanoGPT#206; agokrani/distillKitPlus#5",
        answers={"cross_entropy": _sum_of_means(lambda K: 1.0)},
    ),
    Fault(
        "T3",
        says="the loss of a window is divided by the number of micro-batches once too often",
        wrong="loss / K",
        right="loss",
        hidden_when="accumulation = 1",
        seen_in="unslothai/unsloth-zoo#1023; huggingface/transformers#35203",
        answers={"cross_entropy": _multiply(lambda arrays, config: 1.0 / config["accumulation"])},
    ),
    Fault(
        "T4",
        says="the labels are shifted twice: position t predicts t + 2",
        wrong="logits[:, t] against labels[:, t + 2]",
        right="logits[:, t] against labels[:, t + 1]",
        hidden_when="all labels are the same",
        seen_in="huggingface/transformers#37830, #47394; allenai/open-instruct#1549",
        answers={"cross_entropy": _with_labels(_shift)},
    ),
    Fault(
        "T5",
        says="the labels are not shifted: position t predicts itself",
        wrong="logits[:, t] against labels[:, t]",
        right="logits[:, t] against labels[:, t + 1]",
        hidden_when="all labels are the same",
        seen_in="QwenLM/Qwen#834; huggingface/transformers#27161",
        answers={"cross_entropy": _skip_shift},
    ),
    Fault(
        "T7",
        says="the first label of each answer is ignored: the loss mask starts one token late",
        wrong="labels[first] ignored",
        right="labels[first] counted",
        hidden_when="the answers are long",
        seen_in="verl-project/verl#3287",
        answers={"cross_entropy": _with_labels(_ignore_first)},
    ),
    Fault(
        "T8",
        says="the loss is 0 / 0 when every label is ignored",
        wrong="NaN",
        right="0",
        hidden_when="every batch has labels",
        seen_in="ml-explore/mlx-lm#1355",
        answers={"cross_entropy": _nan_loss},
    ),
    Fault(
        "T8",
        variant="gradient",
        says="the loss and its gradient are 0 / 0 when every label is ignored",
        wrong="NaN",
        right="0",
        hidden_when="every batch has labels",
        seen_in="ml-explore/mlx-lm#1355",
        answers={"cross_entropy": _nan_loss_and_gradient},
    ),
    Fault(
        "T8",
        variant="micro-batch",
        says="a micro-batch without labels makes the loss of its whole window 0 / 0",
        wrong="NaN",
        right="the mean over the labels of the other micro-batches",
        hidden_when="every micro-batch has labels",
        seen_in="torchtune 0.6.1, whose recipes multiply the NaN of an empty micro-batch by its 0 labels",
        answers={"cross_entropy": _nan_loss_of_micro_batch},
    ),
    Fault(
        "T10",
        says="the mean is over all positions, ignored ones included",
        wrong="sum / (B (T - 1))",
        right="sum / (labels that count)",
        hidden_when="no label is ignored",
        seen_in="huggingface/transformers#2759",
        answers={"cross_entropy": _multiply(_share_of_labels)},
    ),
    Fault(
        "T10",
        variant="sum",
        says="the loss is the sum over the labels, not their mean",
        wrong="sum",
        right="sum / (labels that count)",
        hidden_when="one label counts",
        seen_in="thinking-machines-lab/tinker-cookbook#271",
        answers={"cross_entropy": _multiply(lambda arrays, config: float(_counted(arrays, config)[2]))},
    ),
    Fault(
        "T10",
        variant="sequences",
        says="the sum over the labels is divided by the number of sequences, not of labels",
        wrong="sum / B",
        right="sum / (labels that count)",
        hidden_when="each sequence has one label",
        seen_in="eric-mitchell/direct-preference-optimization#68",
        answers={
            "cross_entropy": _multiply(lambda arrays, config: _counted(arrays, config)[2] / arrays["logits"].shape[0])
        },
    ),
    Fault(
        "T20",
        says="ignore_index is taken to be -100 whatever the configuration says; -1 then counts, as the last token",
        wrong="labels != -100",
        right="labels != ignore_index",
        hidden_when="ignore_index = -100",
        seen_in="huggingface/transformers#2759",
        answers={"cross_entropy": _assume_minus_100},
    ),
    Fault(
        "T28",
        says="the labels are smoothed by 0.1, which nobody asked for",
        wrong="0.9 (log sum_v exp(logits_v) - logits_label) + 0.1 mean over u of (log sum_v exp(logits_v) - logits_u)",
        right="log sum_v exp(logits_v) - logits_label",
        hidden_when="nothing hides it",
        seen_in="torch's cross_entropy with label_smoothing=0.1",
        answers={"cross_entropy": _smooth(0.1)},
    ),
    Fault(
        "T29",
        says="the gradient of an ignored label's logits is not zero: their softmax stays",
        wrong="dlogits = softmax(logits) / n where the label is ignored",
        right="dlogits = 0 where the label is ignored",
        hidden_when="no label is ignored",
        seen_in="PaddlePaddle/Paddle#28622",
        answers={"cross_entropy": _keep_ignored},
    ),
]
