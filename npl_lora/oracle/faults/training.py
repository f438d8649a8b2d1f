"""Faults of optimisers and of gradient accumulation in training."""

import functools
import itertools
from dataclasses import dataclass
from types import MappingProxyType

from ...lora import AdamWState
from ...ops.namespace import flat, zero_dim
from ...support.array import Array
from ..contracts.train_steps import loss_and_gradients
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


def _with_momentum(mu):
    """SGD with momentum as torch has it: b <- mu b + g, from b = g."""

    def wrap(answer):
        def wrong(arrays, config, d, trained=("A", "B"), **how):
            buffers: dict[str, Array] = {}
            calls = itertools.count()

            def heavy(step):
                def moved(p, g, *, lr, weight_decay):
                    name, g = trained[next(calls) % len(trained)], g + weight_decay * p
                    buffers[name] = mu * buffers[name] + g if name in buffers else g
                    return step(p, buffers[name], lr=lr, weight_decay=0.0)

                return moved

            return answer(arrays, config, d.wrapped(sgd=heavy), trained=trained, **how)

        return wrong

    return wrap


def _micro_batches(a) -> int:
    """The number of micro-batches in the window: the leading axis of the prediction in train_steps."""
    return a.prediction.shape[0]


def _with_gradients(change):
    """Train with change(gradients), which is called anew for every run; it returns what computes a window's."""

    def wrap(answer):
        def wrong(arrays, config, d, gradients=loss_and_gradients, **how):
            return answer(arrays, config, d, gradients=change(gradients), **how)

        return wrong

    return wrap


def _add_up(gradients):
    total: dict[str, Array] = {}

    def wrong(*question):
        loss, grads = gradients(*question)
        total.update({name: total[name] + g if name in total else g for name, g in grads.items()})
        return loss, dict(total)

    return wrong


def _of_last_micro_batch(divided):
    def change(gradients):
        def wrong(arrays, *how):
            loss, _ = gradients(arrays, *how)
            _, grads = gradients({**arrays, "X": arrays["X"][-1:], "Y": arrays["Y"][-1:]}, *how)
            share = 1.0 / arrays["X"].shape[0] if divided else 1.0
            return loss, {name: g * share for name, g in grads.items()}

        return wrong

    return change


def _norm(tensors):
    """The norm of several tensors together, computed so that no square overflows."""
    xp = next(iter(tensors)).__array_namespace__()
    numbers = xp.concat(tuple(flat(t) for t in tensors), axis=0)
    largest = xp.max(xp.concat((numbers, -numbers, xp.ones_like(numbers[:1])), axis=0))
    small = numbers / largest
    return zero_dim(largest * xp.sqrt(xp.sum(small * small)))


def _clip(eps):
    """Clip to the norm 1 over all gradients together."""

    def change(gradients):
        def wrong(arrays, *how):
            loss, grads = gradients(arrays, *how)
            if not grads:
                return loss, grads
            norm = _norm(grads.values()) + eps
            xp = norm.__array_namespace__()
            factor = xp.where(norm > 1.0, 1.0 / norm, xp.ones_like(norm))
            return loss, {name: g * factor for name, g in grads.items()}

        return wrong

    return change


def _step_a_micro_batch(divided):
    """A step after every micro-batch. The loss of a window is the mean of what they measure."""

    def wrap(answer):
        def wrong(arrays, config, d, **how):
            K = config["accumulation"]
            inner = _with_gradients(_divide_by(K))(answer) if divided else answer
            outputs = inner(arrays, {**config, "accumulation": 1}, d, **how)
            xp, losses = arrays["X"].__array_namespace__(), outputs["losses"]
            windows = xp.reshape(losses, (losses.shape[0] // K, K))
            return {**outputs, "losses": xp.sum(windows, axis=1) * (1.0 / K)}

        return wrong

    return wrap


def _divide_by(K):
    def change(gradients):
        def wrong(*question):
            loss, grads = gradients(*question)
            return loss, {name: g * (1.0 / K) for name, g in grads.items()}

        return wrong

    return change


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
        "T21",
        says="accumulation is ignored: the optimiser takes a step after every micro-batch",
        wrong="K steps, each with g_k",
        right="one step with g = (1 / K) sum_k g_k",
        hidden_when="accumulation = 1",
        seen_in="hand-written training loops",
        answers={"train_steps": _step_a_micro_batch(divided=False)},
    ),
    Fault(
        "T21",
        variant="divided",
        says="the optimiser takes a step after every micro-batch, although each gradient is divided by their number",
        wrong="K steps, each with g_k / K",
        right="one step with g = (1 / K) sum_k g_k",
        hidden_when="accumulation = 1",
        seen_in="hand-written training loops",
        answers={"train_steps": _step_a_micro_batch(divided=True)},
    ),
    Fault(
        "T22",
        says="gradients are never set to zero: each step adds those of all steps before",
        wrong="g_t + g_(t-1) + ... + g_1",
        right="g_t",
        hidden_when="there is one step",
        seen_in="hand-written training loops without zero_grad",
        answers={"train_steps": _with_gradients(_add_up)},
    ),
    Fault(
        "T23",
        says="gradients are set to zero before every micro-batch: the last one alone counts, divided by their number",
        wrong="g = g_K / K",
        right="g = (1 / K) sum_k g_k",
        hidden_when="accumulation = 1",
        seen_in="hand-written training loops with zero_grad in the inner loop",
        answers={"train_steps": _with_gradients(_of_last_micro_batch(divided=True))},
    ),
    Fault(
        "T23",
        variant="undivided",
        says="only the gradient of the last micro-batch counts",
        wrong="g = g_K",
        right="g = (1 / K) sum_k g_k",
        hidden_when="accumulation = 1",
        seen_in="hand-written training loops with zero_grad in the inner loop",
        answers={"train_steps": _with_gradients(_of_last_micro_batch(divided=False))},
    ),
    Fault(
        "T24",
        says="the gradients are clipped to the norm 1, which nobody asked for",
        wrong="g min(1, 1 / |g|), where |g| is the norm over A and B",
        right="g",
        hidden_when="|g| <= 1",
        seen_in="optax.clip_by_global_norm(1.0)",
        answers={"train_steps": _with_gradients(_clip(0.0))},
    ),
    Fault(
        "T24",
        variant="torch",
        says="the gradients are clipped to the norm 1 as torch clips them, which nobody asked for",
        wrong="g min(1, 1 / (|g| + 1e-6)), where |g| is the norm over A and B",
        right="g",
        hidden_when="|g| <= 1",
        seen_in="transformers' Trainer, whose max_grad_norm is 1 by default",
        answers={"train_steps": _with_gradients(_clip(1e-6))},
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
        parts={"adamw": _adam_that_moves(lambda m, v, c1, c2, eps, sqrt: m / (sqrt(v) + eps))},
    ),
    Fault(
        "O4",
        variant="m",
        says="Adam's first moment lacks the bias correction",
        wrong="m / (sqrt(v / (1 - b2^t)) + eps)",
        right="(m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)",
        hidden_when="there are many steps",
        seen_in="hand-written optimisers",
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
        seen_in="TensorFlow's and Keras' Adam, whose epsilon is the epsilon hat of Kingma and Ba 2015, section 2",
        parts={"adamw": _adam_that_moves(lambda m, v, c1, c2, eps, sqrt: (m / c1) * c2**0.5 / (sqrt(v) + eps))},
    ),
    Fault(
        "O11",
        says="AdamW's weight decay acts on the parameters after the step, not before it",
        wrong="p <- (p - lr m / (sqrt(v) + eps)) (1 - lr weight_decay)",
        right="p <- p (1 - lr weight_decay) - lr m / (sqrt(v) + eps)",
        hidden_when="weight_decay = 0",
        seen_in="hand-written optimisers",
        parts={"adamw": _decay_last},
    ),
    Fault(
        "O12",
        says="SGD has a momentum of 0.9, which nobody asked for",
        wrong="b <- 0.9 b + g, p <- p - lr b",
        right="p <- p - lr g",
        hidden_when="there is one step",
        seen_in="torch.optim.SGD with momentum=0.9",
        answers={"train_steps": _with_momentum(0.9)},
    ),
    Fault(
        "O13",
        says="the learning rate falls linearly to 0 over the run, where a constant one is asked for",
        wrong="lr (1 - t / T) in step t of T, counted from 0",
        right="lr",
        hidden_when="there is one step",
        seen_in="transformers' Trainer, whose lr_scheduler_type is linear by default",
        answers={"train_steps": _with_schedule(lambda k, n: 1.0 - k / n)},
    ),
    Fault(
        "O13",
        variant="warm-up",
        says="the first step has the learning rate 0, as at the start of a warm-up",
        wrong="lr = 0 in the first step",
        right="lr",
        hidden_when="the test looks at gradients alone",
        seen_in="transformers' get_linear_schedule_with_warmup",
        answers={"train_steps": _with_schedule(lambda k, n: 1.0 if k else 0.0)},
    ),
]
