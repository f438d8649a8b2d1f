"""Faults of lora_dropout: what the masks hold, and whether one acts in evaluation."""

import numpy as np

from .fault import Fault
from .wraps import as_numpy


def _dropped_share(mask):
    return float(np.mean(as_numpy(mask) == 0))


def _drop_in_evaluation(answer):
    """Where the mask that y_eval shows is one: some numbers are dropped, and some are not."""

    def wrong(arrays, config, d):
        if not 0.0 < _dropped_share(arrays["mask_eval"]) < 1.0:
            return answer(arrays, config, d)
        dropped = answer({**arrays, "mask": arrays["mask_eval"]}, config, d)
        return {**answer(arrays, config, d), "y_eval": dropped["y"]}

    return wrong


def _scale_in_evaluation(factor):
    """factor(p) times the low-rank path in evaluation."""

    def wrap(answer):
        def wrong(arrays, config, d):
            other = d.wrapped(scale=lambda scale: lambda config: factor(config["p"]) * scale(config))
            return {**answer(arrays, config, d), "y_eval": answer(arrays, config, other)["y_eval"]}

        return wrong

    return wrap


def _is_of_keeping(mask, p):
    """Whether p seems to be the probability with which the numbers of this mask are kept, not dropped."""
    return abs(_dropped_share(mask) - (1.0 - p)) < abs(_dropped_share(mask) - p)


def _keep(value):
    """The masks are 0 and value(p)."""

    def wrap(answer):
        def wrong(arrays, config, d):
            p = config["p"]
            masks = {name: arrays[name] for name in ("mask", "mask_again")}
            if not _is_of_keeping(masks["mask"], p):  # which is another fault
                masks = {name: mask * (value(p) * (1.0 - p)) for name, mask in masks.items()}
            return answer({**arrays, **masks}, config, d)

        return wrong

    return wrap


def _keep_with_probability_p(answer):
    """The masks are 0 and 1 / p, and drop a share 1 - p."""

    def wrong(arrays, config, d):
        p = config["p"]
        masks = {name: arrays[name] * (1.0 - p) for name in ("mask", "mask_again")}  # 0 and 1
        if not _is_of_keeping(arrays["mask"], p) and p != 0.5:
            masks = {name: 1.0 - mask for name, mask in masks.items()}
        return answer({**arrays, **{name: mask / p for name, mask in masks.items()}}, config, d)

    return wrong


FAULTS = [
    Fault(
        "D4",
        says="dropout acts in evaluation as well",
        wrong="y_eval = x W^T + s ((x o mask) A^T) B^T",
        right="y_eval = x W^T + s (x A^T) B^T",
        hidden_when="p = 0",
        seen_in="huggingface/peft#3766; meta-pytorch/torchtune#1049",
        answers={"lora_dropout": _drop_in_evaluation},
    ),
    Fault(
        "D5",
        says="evaluation multiplies the low-rank path by 1 - p, although training already divides by 1 - p",
        wrong="y_eval = x W^T + (1 - p) s (x A^T) B^T",
        right="y_eval = x W^T + s (x A^T) B^T",
        hidden_when="p = 0",
        seen_in="ooples/AiDotNet#256",
        answers={"lora_dropout": _scale_in_evaluation(lambda p: 1.0 - p)},
    ),
    Fault(
        "D5",
        variant="p",
        says="evaluation multiplies the low-rank path by p",
        wrong="y_eval = x W^T + p s (x A^T) B^T",
        right="y_eval = x W^T + s (x A^T) B^T",
        hidden_when="p = 1",
        seen_in="karpathy/convnetjs#61, #106",
        answers={"lora_dropout": _scale_in_evaluation(lambda p: p)},
    ),
    Fault(
        "D5",
        variant="divided",
        says="evaluation divides the low-rank path by 1 - p, as training does what it keeps",
        wrong="y_eval = x W^T + s (x A^T) B^T / (1 - p)",
        right="y_eval = x W^T + s (x A^T) B^T",
        hidden_when="p = 0",
        seen_in="hand-written dropout",
        answers={"lora_dropout": _scale_in_evaluation(lambda p: 1.0 / (1.0 - p))},
    ),
    Fault(
        "D9",
        says="the values that dropout keeps are not divided by 1 - p",
        wrong="a mask of 0 and 1",
        right="a mask of 0 and 1 / (1 - p)",
        hidden_when="p = 0",
        seen_in="hand-written dropout",
        answers={"lora_dropout": _keep(lambda p: 1.0)},
    ),
    Fault(
        "D9",
        variant="p",
        says="the values that dropout keeps are divided by p instead of 1 - p",
        wrong="a mask of 0 and 1 / p",
        right="a mask of 0 and 1 / (1 - p)",
        hidden_when="p = 0.5",
        seen_in="lmjohns3/theanets#123",
        answers={"lora_dropout": _keep(lambda p: 1.0 / p)},
    ),
    Fault(
        "D9",
        variant="twice",
        says="the values that dropout keeps are divided by 1 - p twice",
        wrong="a mask of 0 and 1 / (1 - p)^2",
        right="a mask of 0 and 1 / (1 - p)",
        hidden_when="p = 0",
        seen_in="hand-written dropout around a function that divides already",
        answers={"lora_dropout": _keep(lambda p: 1.0 / (1.0 - p) ** 2)},
    ),
    Fault(
        "D9",
        variant="multiplied",
        says="the values that dropout keeps are multiplied by 1 - p instead of divided by it",
        wrong="a mask of 0 and 1 - p",
        right="a mask of 0 and 1 / (1 - p)",
        hidden_when="p = 0",
        seen_in="hand-written dropout",
        answers={"lora_dropout": _keep(lambda p: 1.0 - p)},
    ),
    Fault(
        "D15",
        says="p is taken for the probability to keep a value, not to drop it",
        wrong="a mask of 0 with probability 1 - p, else 1 / p",
        right="a mask of 0 with probability p, else 1 / (1 - p)",
        hidden_when="p = 0.5",
        seen_in="v-iashin/CS231n#8",
        answers={"lora_dropout": _keep_with_probability_p},
    ),
]
