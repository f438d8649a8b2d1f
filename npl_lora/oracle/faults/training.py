"""Faults of optimisers and of gradient accumulation in training."""

import functools

from ...lora import AdamWState
from .fault import Fault
from .wraps import with_gradients


def _with_step(change):
    """Call the optimiser with change(p, g, settings)."""

    def wrap(step):
        def wrong(p, g, *state, **settings):
            p, g, settings = change(p, g, dict(settings))
            return step(p, g, *state, **settings)

        return wrong

    return wrap


def _no_decay(p, g, settings):
    return p, g, {**settings, "weight_decay": 0.0}


def _decay_in_gradient(p, g, settings):
    """L2 regularisation: the decay goes through the moments."""
    return p, g + settings["weight_decay"] * p, {**settings, "weight_decay": 0.0}


def _decay_without_rate(p, g, settings):
    return p, g, {**settings, "weight_decay": settings["weight_decay"] / settings["lr"]}


def _swap_betas(p, g, settings):
    return p, g, {**settings, "betas": tuple(reversed(settings["betas"]))}


def _forget_moments(step):
    """The moments are zero at every step."""
    return lambda p, g, state, **settings: step(p, g, AdamWState(), **settings)


def _skip_bias_correction(step):
    """Do not correct the moments for their start at zero. After many steps the correction is 1."""

    def wrong(p, g, state, *, lr, weight_decay, betas, eps):
        b1, b2 = betas
        m, v = b1 * state.m + (1.0 - b1) * g, b2 * state.v + (1.0 - b2) * (g * g)
        root = g.__array_namespace__().sqrt(v)
        return p * (1.0 - lr * weight_decay) - lr * (m / (root + eps)), AdamWState(m, v, state.step + 1)

    return wrong


def _eps_inside_root(step):
    def wrong(p, g, state, *, lr, weight_decay, betas, eps):
        b1, b2 = betas
        t = state.step + 1
        m, v = b1 * state.m + (1.0 - b1) * g, b2 * state.v + (1.0 - b2) * (g * g)
        root = g.__array_namespace__().sqrt(v / (1.0 - b2**t) + eps)
        return p * (1.0 - lr * weight_decay) - lr * (m / (1.0 - b1**t) / root), AdamWState(m, v, t)

    return wrong


def _micro_batches(a) -> int:
    """The number of micro-batches in the window: the leading axis of the prediction in train_steps."""
    return a.prediction.shape[0]


FAULTS = [
    Fault(
        "T2",
        variant="training",
        says="accumulated gradients are not divided by the number of micro-batches",
        wrong="g = sum_k g_k",
        right="g = (1 / K) sum_k g_k",
        hidden_when="accumulation = 1, or Adam runs without eps and decay",
        seen_in="karpathy/nanoGPT#206; agokrani/distillKitPlus#5",
        parts={"mean_squared_error": with_gradients(prediction=lambda g, a: g * float(_micro_batches(a)))},
    ),
    Fault(
        "T3",
        variant="training",
        says="accumulated gradients are divided by the number of micro-batches twice",
        wrong="g = (1 / K^2) sum_k g_k",
        right="g = (1 / K) sum_k g_k",
        hidden_when="accumulation = 1, or Adam runs without eps and decay",
        seen_in="unslothai/unsloth-zoo#1023; huggingface/transformers#35203",
        parts={"mean_squared_error": with_gradients(prediction=lambda g, a: g * (1.0 / _micro_batches(a)))},
    ),
    Fault(
        "B8",
        says="the base weight is trained as well",
        wrong="W <- W - lr dW",
        right="W <- W",
        hidden_when="the test looks at A and B only",
        seen_in="huggingface/peft#899; paiml/aprender#2232",
        answers={"train_steps": lambda answer: functools.partial(answer, trained=("W", "A", "B"))},
    ),
    Fault(
        "O1",
        says="weight decay is left out",
        wrong="p <- p - lr g",
        right="p <- p (1 - lr weight_decay) - lr g",
        hidden_when="weight_decay = 0",
        seen_in="hand-written optimisers",
        parts={"sgd": _with_step(_no_decay), "adamw": _with_step(_no_decay)},
    ),
    Fault(
        "O2",
        says="AdamW's weight decay goes through the gradient, as L2 regularisation does in Adam: it is not decoupled",
        wrong="g <- g + weight_decay p",
        right="p <- p (1 - lr weight_decay)",
        hidden_when="weight_decay = 0",
        seen_in="Loshchilov and Hutter 2019",
        parts={"adamw": _with_step(_decay_in_gradient)},
    ),
    Fault(
        "O3",
        says="AdamW's weight decay is not multiplied by the learning rate",
        wrong="p <- p (1 - weight_decay)",
        right="p <- p (1 - lr weight_decay)",
        hidden_when="weight_decay = 0",
        seen_in="Loshchilov and Hutter 2019, who define it so; torch does not",
        parts={"adamw": _with_step(_decay_without_rate)},
    ),
    Fault(
        "O4",
        says="Adam's moments lack the bias correction",
        wrong="m / (sqrt(v) + eps)",
        right="(m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)",
        hidden_when="there are many steps",
        seen_in="Kingma and Ba 2015, section 3",
        parts={"adamw": _skip_bias_correction},
    ),
    Fault(
        "O5",
        says="eps is inside the square root",
        wrong="m / sqrt(v + eps)",
        right="m / (sqrt(v) + eps)",
        hidden_when="eps is small",
        seen_in="hand-written optimisers",
        parts={"adamw": _eps_inside_root},
    ),
    Fault(
        "O6",
        says="Adam's moments are forgotten between steps",
        wrong="m = (1 - b1) g",
        right="m = b1 m + (1 - b1) g",
        hidden_when="there is one step",
        seen_in="hand-written optimisers",
        parts={"adamw": _forget_moments},
    ),
    Fault(
        "O7",
        says="Adam's two betas are swapped",
        wrong="m with b2, v with b1",
        right="m with b1, v with b2",
        hidden_when="b1 = b2",
        seen_in="hand-written optimisers",
        parts={"adamw": _with_step(_swap_betas)},
    ),
]
