"""Faults of the optimiser: Adam's moments, weight decay, momentum, the learning rate."""

import itertools
from dataclasses import dataclass
from types import MappingProxyType

from ...lora import AdamWState
from ...support.array import Array
from .fault import Fault


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


def _adam_that_moves(by):
    """AdamW whose step is lr by(m, v, 1 - b1^t, 1 - b2^t, eps, sqrt)."""

    def wrap(step):
        def wrong(p, g, state, *, lr, weight_decay, betas, eps):
            b1, b2 = betas
            t = state.step + 1
            m, v = b1 * state.m + (1.0 - b1) * g, b2 * state.v + (1.0 - b2) * (g * g)
            move = by(m, v, 1.0 - b1**t, 1.0 - b2**t, eps, g.__array_namespace__().sqrt)
            return p * (1.0 - lr * weight_decay) - lr * move, AdamWState(m, v, t)

        return wrong

    return wrap


def _decay_last(step):
    """The decay acts on what the step gave."""

    def wrong(p, g, state, *, lr, weight_decay, **how):
        after, state = step(p, g, state, lr=lr, weight_decay=0.0, **how)
        return after * (1.0 - lr * weight_decay), state

    return wrong


def _in_each_run(part, change):
    """The part with change(step, k, n), for the k-th of n steps of a run; counted anew in every run."""

    def wrap(answer):
        def wrong(arrays, config, d, trained=("A", "B"), **how):
            calls, n = itertools.count(), arrays["X"].shape[0] // config["accumulation"]
            counting = lambda step: lambda *a, **b: change(step, next(calls) // len(trained), n)(*a, **b)  # noqa: E731
            return answer(arrays, config, d.wrapped(**{part: counting}), trained=trained, **how)

        return wrong

    return wrap


def _with_schedule(share):
    """The learning rate times share(k, n) in step k of n."""

    def change(step, k, n):
        return lambda *args, lr, **how: step(*args, lr=lr * share(k, n), **how)

    return lambda answer: _in_each_run("sgd", change)(_in_each_run("adamw", change)(answer))


def _with_momentum(mu, nesterov=False):
    """SGD with momentum as torch has it: b <- mu b + g, from b = g. Nesterov's steps by g + mu b in place of b."""

    def wrap(answer):
        def wrong(arrays, config, d, trained=("A", "B"), **how):
            buffers: dict[str, Array] = {}
            calls = itertools.count()

            def heavy(step):
                def moved(p, g, *, lr, weight_decay):
                    name, g = trained[next(calls) % len(trained)], g + weight_decay * p
                    buffers[name] = mu * buffers[name] + g if name in buffers else g
                    by = g + mu * buffers[name] if nesterov else buffers[name]
                    return step(p, by, lr=lr, weight_decay=0.0)

                return moved

            return answer(arrays, config, d.wrapped(sgd=heavy), trained=trained, **how)

        return wrong

    return wrap


def _with_rate(name, factor):
    """A learning rate of its own for A or B."""

    def wrap(answer):
        def wrong(arrays, config, d, rates=MappingProxyType({}), **how):
            return answer(arrays, config, d, rates={**rates, name: factor * rates.get(name, 1.0)}, **how)

        return wrong

    return wrap


@dataclass(frozen=True)
class _WithLargest(AdamWState):
    """Adam's state, with the largest v so far."""

    largest: Array = 0.0


def _divide_by_largest(corrected):
    """AMSGrad. torch takes the largest v, then corrects it for the start; optax corrects every v first."""

    def wrap(step):
        def wrong(p, g, state, *, lr, weight_decay, betas, eps):
            b1, b2 = betas
            t, xp = state.step + 1, g.__array_namespace__()
            m, v = b1 * state.m + (1.0 - b1) * g, b2 * state.v + (1.0 - b2) * (g * g)
            first = 1.0 - b2**t
            largest = v / first if corrected else v
            if isinstance(state, _WithLargest):
                largest = xp.where(state.largest > largest, state.largest, largest)
            root = xp.sqrt(largest if corrected else largest / first) + eps
            after = p * (1.0 - lr * weight_decay) - lr * (m / (1.0 - b1**t) / root)
            return after, _WithLargest(m, v, t, largest)

        return wrong

    return wrap


FAULTS = [
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
        parts={"adamw": _adam_that_moves(lambda m, v, c1, c2, eps, sqrt: m / (sqrt(v) + eps))},
    ),
    Fault(
        "O4",
        variant="m",
        says="Adam's first moment lacks the bias correction",
        wrong="m / (sqrt(v / (1 - b2^t)) + eps)",
        right="(m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)",
        hidden_when="there are many steps",
        seen_in="pytorch/pytorch#67105, which asks for it",
        parts={"adamw": _adam_that_moves(lambda m, v, c1, c2, eps, sqrt: m / (sqrt(v / c2) + eps))},
    ),
    Fault(
        "O4",
        variant="v",
        says="Adam's second moment lacks the bias correction",
        wrong="(m / (1 - b1^t)) / (sqrt(v) + eps)",
        right="(m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)",
        hidden_when="there are many steps",
        seen_in="hand-written optimisers",
        parts={"adamw": _adam_that_moves(lambda m, v, c1, c2, eps, sqrt: (m / c1) / (sqrt(v) + eps))},
    ),
    Fault(
        "O5",
        says="eps is inside the square root",
        wrong="m / sqrt(v + eps)",
        right="m / (sqrt(v) + eps)",
        hidden_when="eps is small",
        seen_in="hand-written optimisers",
        parts={"adamw": _adam_that_moves(lambda m, v, c1, c2, eps, sqrt: (m / c1) / sqrt(v / c2 + eps))},
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
    Fault(
        "O8",
        says="AMSGrad: the step is divided by the largest v so far, where the latest is asked for",
        wrong="m / (sqrt(max over steps of v) + eps)",
        right="m / (sqrt(v) + eps)",
        hidden_when="the gradients grow",
        seen_in="torch.optim.AdamW with amsgrad",
        parts={"adamw": _divide_by_largest(corrected=False)},
    ),
    Fault(
        "O8",
        variant="corrected",
        says="AMSGrad: the step is divided by the largest bias-corrected v so far, where the latest is asked for",
        wrong="m / (sqrt(max over steps of v / (1 - b2^t)) + eps)",
        right="m / (sqrt(v / (1 - b2^t)) + eps)",
        hidden_when="the gradients grow",
        seen_in="optax.amsgrad",
        parts={"adamw": _divide_by_largest(corrected=True)},
    ),
    Fault(
        "O9",
        says="B has 16 times the learning rate, as in LoRA+, but one rate for A and B is asked for",
        wrong="lr_B = 16 lr",
        right="lr_B = lr",
        hidden_when="the test looks at gradients alone",
        seen_in="LoRA+ (Hayou et al. 2024), whose ratio is 16",
        answers={"train_steps": _with_rate("B", 16.0)},
    ),
    Fault(
        "O10",
        says="eps is added before the bias correction of v, so that the correction acts on it as well",
        wrong="(m / (1 - b1^t)) sqrt(1 - b2^t) / (sqrt(v) + eps)",
        right="(m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)",
        hidden_when="eps is small, or there are many steps",
        seen_in="keras-team/keras#17391; tensorflow/tensorflow#9047: the epsilon hat of Kingma and Ba 2015, section 2",
        parts={"adamw": _adam_that_moves(lambda m, v, c1, c2, eps, sqrt: (m / c1) * c2**0.5 / (sqrt(v) + eps))},
    ),
    Fault(
        "O11",
        says="AdamW's weight decay acts on the parameters after the step, not before it",
        wrong="p <- (p - lr m / (sqrt(v) + eps)) (1 - lr weight_decay)",
        right="p <- p (1 - lr weight_decay) - lr m / (sqrt(v) + eps)",
        hidden_when="weight_decay = 0",
        seen_in="bitsandbytes-foundation/bitsandbytes#2010; kyleliang919/C-Optim#3",
        parts={"adamw": _decay_last},
    ),
    Fault(
        "O12",
        says="SGD has a momentum of 0.9, which nobody asked for",
        wrong="b <- 0.9 b + g, p <- p - lr b",
        right="p <- p - lr g",
        hidden_when="there is one step",
        seen_in="facebookresearch/detectron2#1110, whose default it is",
        answers={"train_steps": _with_momentum(0.9)},
    ),
    Fault(
        "O12",
        variant="nesterov",
        says="SGD has Nesterov's momentum of 0.9, which nobody asked for",
        wrong="b <- 0.9 b + g, p <- p - lr (g + 0.9 b)",
        right="p <- p - lr g",
        hidden_when="the test looks at gradients alone",
        seen_in="kohya-ss/sd-scripts#1429: its SGDNesterov has momentum, asked for or not",
        answers={"train_steps": _with_momentum(0.9, nesterov=True)},
    ),
    Fault(
        "O13",
        says="the learning rate falls linearly to 0 over the run, where a constant one is asked for",
        wrong="lr (1 - t / T) in step t of T, counted from 0",
        right="lr",
        hidden_when="there is one step",
        seen_in="hiyouga/ChatGLM-Efficient-Tuning#393; transformers' Trainer, whose default it is",
        answers={"train_steps": _with_schedule(lambda k, n: 1.0 - k / n)},
    ),
    Fault(
        "O13",
        variant="warm-up",
        says="the first step has the learning rate 0, as at the start of a warm-up",
        wrong="lr = 0 in the first step",
        right="lr",
        hidden_when="the test looks at gradients alone",
        seen_in="google-research/bert#1293; pytorch/torchtitan#1261",
        answers={"train_steps": _with_schedule(lambda k, n: 1.0 if k else 0.0)},
    ),
]
