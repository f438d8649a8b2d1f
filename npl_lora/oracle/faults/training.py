"""Faults of optimisers and of accumulation in training."""

import functools

from ...lora import AdamWState
from .fault import Fault, backward


def _optimizer(change):
    """An optimiser called with other arguments, change(p, g, how)."""

    def wrap(step):
        def wrong(p, g, *state, **how):
            p, g, how = change(p, g, dict(how))
            return step(p, g, *state, **how)

        return wrong

    return wrap


def _no_decay(p, g, how):
    return p, g, {**how, "weight_decay": 0.0}


def _decay_in_gradient(p, g, how):
    """L2 regularisation: the decay goes through the moments."""
    return p, g + how["weight_decay"] * p, {**how, "weight_decay": 0.0}


def _decay_without_rate(p, g, how):
    return p, g, {**how, "weight_decay": how["weight_decay"] / how["lr"]}


def _betas_exchanged(p, g, how):
    return p, g, {**how, "betas": tuple(reversed(how["betas"]))}


def _forgets(step):
    """The moments are zero at every step."""
    return lambda p, g, state, **how: step(p, g, AdamWState(), **how)


def _biased(step):
    """No correction for the moments' start at zero: after many steps there is none to make."""

    def wrong(p, g, state, *, lr, weight_decay, betas, eps):
        b1, b2 = betas
        m, v = b1 * state.m + (1.0 - b1) * g, b2 * state.v + (1.0 - b2) * (g * g)
        root = g.__array_namespace__().sqrt(v)
        return p * (1.0 - lr * weight_decay) - lr * (m / (root + eps)), AdamWState(m, v, state.step + 1)

    return wrong


def _eps_inside(step):
    def wrong(p, g, state, *, lr, weight_decay, betas, eps):
        b1, b2 = betas
        t = state.step + 1
        m, v = b1 * state.m + (1.0 - b1) * g, b2 * state.v + (1.0 - b2) * (g * g)
        root = g.__array_namespace__().sqrt(v / (1.0 - b2**t) + eps)
        return p * (1.0 - lr * weight_decay) - lr * (m / (1.0 - b1**t) / root), AdamWState(m, v, t)

    return wrong


def _accumulation(a) -> int:
    """Micro-batches in the window: the leading axis of what train_steps predicts."""
    return a.prediction.shape[0]


FAULTS = [
    Fault(
        "T2",
        "accumulated gradients are not divided by the number of micro-batches",
        "g = sum_k g_k",
        "g = (1 / K) sum_k g_k",
        "accumulation 1, or Adam without eps and decay",
        "karpathy/nanoGPT#206; agokrani/distillKitPlus#5",
        variant="training",
        parts={"mean_squared_error": backward(prediction=lambda g, a: g * float(_accumulation(a)))},
    ),
    Fault(
        "T3",
        "accumulated gradients are divided by the number of micro-batches twice",
        "g = (1 / K^2) sum_k g_k",
        "g = (1 / K) sum_k g_k",
        "accumulation 1, or Adam without eps and decay",
        "unslothai/unsloth-zoo#1023; huggingface/transformers#35203",
        variant="training",
        parts={"mean_squared_error": backward(prediction=lambda g, a: g * (1.0 / _accumulation(a)))},
    ),
    Fault(
        "B8",
        "the base weight is trained too",
        "W <- W - lr dW",
        "W is frozen",
        "a test that looks at A and B only",
        "huggingface/peft#899; paiml/aprender#2232",
        answers={"train_steps": lambda answer: functools.partial(answer, trained=("W", "A", "B"))},
    ),
    Fault(
        "O1",
        "weight decay is left out",
        "p <- p - lr g",
        "p <- p (1 - lr weight_decay) - lr g",
        "weight_decay = 0",
        "hand-written optimisers invite it",
        parts={"sgd": _optimizer(_no_decay), "adamw": _optimizer(_no_decay)},
    ),
    Fault(
        "O2",
        "AdamW's weight decay goes through the gradient, as in Adam with L2: it is not decoupled",
        "g <- g + weight_decay p",
        "p <- p (1 - lr weight_decay)",
        "weight_decay = 0",
        "Loshchilov and Hutter 2019",
        parts={"adamw": _optimizer(_decay_in_gradient)},
    ),
    Fault(
        "O3",
        "AdamW's weight decay is not multiplied by the learning rate",
        "p <- p (1 - weight_decay)",
        "p <- p (1 - lr weight_decay)",
        "weight_decay = 0",
        "Loshchilov and Hutter 2019 have it so; torch does not",
        parts={"adamw": _optimizer(_decay_without_rate)},
    ),
    Fault(
        "O4",
        "Adam's moments lack the bias correction",
        "m / (sqrt(v) + eps)",
        "(m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)",
        "many steps",
        "Kingma and Ba 2015, section 3",
        parts={"adamw": _biased},
    ),
    Fault(
        "O5",
        "eps stands inside the root",
        "m / sqrt(v + eps)",
        "m / (sqrt(v) + eps)",
        "a small eps",
        "hand-written optimisers invite it",
        parts={"adamw": _eps_inside},
    ),
    Fault(
        "O6",
        "Adam's moments are forgotten between steps",
        "m = (1 - b1) g",
        "m = b1 m + (1 - b1) g",
        "one step",
        "hand-written optimisers invite it",
        parts={"adamw": _forgets},
    ),
    Fault(
        "O7",
        "Adam's two betas are exchanged",
        "m with b2, v with b1",
        "m with b1, v with b2",
        "b1 = b2",
        "hand-written optimisers invite it",
        parts={"adamw": _optimizer(_betas_exchanged)},
    ),
]
