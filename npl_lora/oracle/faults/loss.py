"""Faults of the loss: shifts, means, and what counts."""

import math

import numpy as np

from .fault import Fault, as_numpy, asked


def _labels(change):
    """The contract on other labels, change(labels, config), given and returned as NumPy arrays."""

    def other(arrays, config):
        labels = arrays["labels"]
        return {"labels": _like(labels, change(np.asarray(as_numpy(labels)), config))}

    return asked(arrays=other)


def _like(array, numbers):
    """numbers as an array of array's kind: error-carrying ones are exact."""
    return array.__array_namespace__().exact(numbers) if hasattr(array, "value") else numbers


def _shifted_again(labels, config):
    rest = np.full_like(labels[:, :1], config["ignore_index"])
    return np.concatenate((labels[:, 1:], rest), axis=1)


def _late(labels, config):
    """The first label that counts after one that does not, or at the start, does not count either."""
    counted = labels[:, 1:] != config["ignore_index"]
    before = np.concatenate((np.zeros_like(counted[:, :1]), counted[:, :-1]), axis=1)
    late = labels.copy()
    late[:, 1:][counted & ~before] = config["ignore_index"]
    return late


def _not_shifted(answer):
    def wrong(arrays, config, d):
        loss, pullback = d.cross_entropy(arrays["logits"], arrays["labels"], ignore_index=config["ignore_index"])
        return {"loss": loss, "dlogits": pullback(1.0)["logits"]}

    return wrong


def _counted(arrays, config) -> np.ndarray:
    """How many labels count in each micro-batch."""
    labels = np.asarray(as_numpy(arrays["labels"]))[:, 1:]
    parts = np.split(labels, config["accumulation"])
    return np.asarray([np.sum(part != config["ignore_index"]) for part in parts])


def _micro_means(weigh, empty=0.0):
    """Each micro-batch's mean times weigh(K); a micro-batch without labels has the mean `empty`."""

    def wrap(answer):
        def wrong(arrays, config, d):
            K, counts = config["accumulation"], _counted(arrays, config)
            xp, size = arrays["logits"].__array_namespace__(), arrays["logits"].shape[0] // K
            losses, grads = [], []
            for k, count in enumerate(counts):
                part = {name: arrays[name][k * size : (k + 1) * size] for name in ("logits", "labels")}
                micro = answer(part, {**config, "accumulation": 1}, d)
                losses.append(micro["loss"] * weigh(K) + (0.0 if count else empty))
                grads.append(micro["dlogits"] * weigh(K))
            return {"loss": xp.sum(xp.stack(tuple(losses), axis=0)), "dlogits": xp.concat(tuple(grads), axis=0)}

        return wrong

    return wrap


def _times(factor):
    """The right answer times factor(arrays, config)."""

    def wrap(answer):
        def wrong(arrays, config, d):
            return {name: t * factor(arrays, config) for name, t in answer(arrays, config, d).items()}

        return wrong

    return wrap


def _share_that_counts(arrays, config):
    labels = np.asarray(as_numpy(arrays["labels"]))[:, 1:]
    return float(_counted(arrays, config).sum()) / labels.size


def _nothing_is_nan(answer):
    """The mean over no labels, 0 / 0."""

    def wrong(arrays, config, d):
        right = answer(arrays, config, d)
        return right if _counted(arrays, config).any() else {**right, "loss": right["loss"] + math.nan}

    return wrong


def _other_ignore_index(answer):
    """Another ignore_index is a label as any other: -1 is the last token, as indices go."""

    def last_token(arrays, config):
        if config["ignore_index"] == -100:
            return {}
        labels, V = np.asarray(as_numpy(arrays["labels"])), arrays["logits"].shape[-1]
        changed = np.where(labels == config["ignore_index"], V - 1, labels)
        return {"labels": _like(arrays["labels"], changed)}

    return asked(arrays=last_token)(answer)


def _nothing_is_nan_throughout(answer):
    def wrong(arrays, config, d):
        right = answer(arrays, config, d)
        return right if _counted(arrays, config).any() else {name: t + math.nan for name, t in right.items()}

    return wrong


def _empty_part_is_nan(answer):
    def wrong(arrays, config, d):
        right = answer(arrays, config, d)
        return right if _counted(arrays, config).all() else {**right, "loss": right["loss"] + math.nan}

    return wrong


FAULTS = [
    Fault(
        "T1",
        "the loss is the mean of the micro-batches' means: tokens of short micro-batches weigh more",
        "(1 / K) sum_k (mean over micro-batch k)",
        "the mean over all labels of the window",
        "as many labels in each micro-batch",
        "huggingface/blog#2414; unslothai/unsloth#1134; karpathy/nanochat#400",
        answers={"cross_entropy": _micro_means(lambda K: 1.0 / K)},
    ),
    Fault(
        "T1",
        "the loss is the mean of the micro-batches' means, and NaN when a micro-batch has no labels",
        "(1 / K) sum_k (mean over micro-batch k)",
        "the mean over all labels of the window",
        "as many labels in each micro-batch",
        "huggingface/blog#2414; ml-explore/mlx-lm#1355",
        variant="nan",
        answers={"cross_entropy": _micro_means(lambda K: 1.0 / K, math.nan)},
    ),
    Fault(
        "T2",
        "the micro-batches' means are added up and not divided by their number",
        "sum_k (mean over micro-batch k)",
        "the mean over all labels of the window",
        "accumulation 1",
        "karpathy/nanoGPT#206; agokrani/distillKitPlus#5",
        answers={"cross_entropy": _micro_means(lambda K: 1.0)},
    ),
    Fault(
        "T3",
        "the loss of a window is divided by the number of micro-batches once too often",
        "loss / K",
        "loss",
        "accumulation 1",
        "unslothai/unsloth-zoo#1023; huggingface/transformers#35203",
        answers={"cross_entropy": _times(lambda arrays, config: 1.0 / config["accumulation"])},
    ),
    Fault(
        "T4",
        "labels are shifted twice: position t predicts t + 2",
        "logits[:, t] against labels[:, t + 2]",
        "logits[:, t] against labels[:, t + 1]",
        "all labels alike",
        "huggingface/transformers#37830, #47394; allenai/open-instruct#1549",
        answers={"cross_entropy": _labels(_shifted_again)},
    ),
    Fault(
        "T5",
        "labels are not shifted: position t predicts itself",
        "logits[:, t] against labels[:, t]",
        "logits[:, t] against labels[:, t + 1]",
        "all labels alike",
        "QwenLM/Qwen#834; huggingface/transformers#27161",
        answers={"cross_entropy": _not_shifted},
    ),
    Fault(
        "T7",
        "the first label of each answer does not count: the loss mask starts one late",
        "labels[first] ignored",
        "labels[first] counted",
        "long answers",
        "verl-project/verl#3287",
        answers={"cross_entropy": _labels(_late)},
    ),
    Fault(
        "T8",
        "with every label ignored the loss is 0 / 0",
        "NaN",
        "0",
        "a batch with labels",
        "ml-explore/mlx-lm#1355",
        answers={"cross_entropy": _nothing_is_nan},
    ),
    Fault(
        "T8",
        "with every label ignored the loss is 0 / 0, and so is its gradient",
        "NaN",
        "0",
        "a batch with labels",
        "ml-explore/mlx-lm#1355",
        variant="gradient",
        answers={"cross_entropy": _nothing_is_nan_throughout},
    ),
    Fault(
        "T8",
        "a micro-batch without labels makes the loss of its whole window 0 / 0",
        "NaN",
        "the mean over the labels of the other micro-batches",
        "labels in every micro-batch",
        "torchtune 0.6.1, whose recipes multiply the NaN of an empty micro-batch by its 0 labels",
        variant="micro-batch",
        answers={"cross_entropy": _empty_part_is_nan},
    ),
    Fault(
        "T10",
        "the mean is over all positions, ignored ones too",
        "sum / (B (T - 1))",
        "sum / (labels that count)",
        "no label ignored",
        "huggingface/transformers#2759",
        answers={"cross_entropy": _times(_share_that_counts)},
    ),
    Fault(
        "T20",
        "ignore_index is taken to be -100 whatever the configuration says: -1 counts, and is read as the last token",
        "labels != -100",
        "labels != ignore_index",
        "ignore_index = -100",
        "huggingface/transformers#2759",
        answers={"cross_entropy": _other_ignore_index},
    ),
]
