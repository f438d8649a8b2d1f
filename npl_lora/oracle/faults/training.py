"""Faults of training: how gradients accumulate, and what is done with them before the step."""

import functools

from ...ops.namespace import flat, zero_dim
from ...support.array import Array
from ..contracts.train_steps import loss_and_gradients
from .fault import Fault
from .wraps import with_arguments, with_gradients


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


def _one_after_the_other(first):
    """`first` takes its step, and the other gradient is that after it."""

    def wrap(answer):
        def wrong(arrays, config, d, trained=("A", "B"), **how):
            order = sorted(trained, key=lambda name: name != first)
            return answer(arrays, config, d, trained=tuple(order), together=False, **how)

        return wrong

    return wrap


def _divide_errors_by(count):
    """The squared errors are added up and divided by count(K, N, out)."""
    return {"mean_squared_error": with_arguments(count=lambda a: count(*a.prediction.shape))}


_HALVE_GRADIENT = with_gradients(prediction=lambda g, a: g * 0.5)


def _halve_loss(mean_squared_error):
    """Half the mean, and half the gradient."""

    def wrong(*args, **how):
        loss, pullback = _HALVE_GRADIENT(mean_squared_error)(*args, **how)
        return loss * 0.5, pullback

    return wrong


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
        "T30",
        says="A's gradient is computed after B's step, with the new B: the two do not step together",
        wrong="B <- B - lr dB(A, B), then A <- A - lr dA(A, B)",
        right="dA(A, B) and dB(A, B), then both steps",
        hidden_when="the test looks at one gradient alone",
        seen_in="joelgrus/data-science-from-scratch#31; VikParuchuri/zero_to_gpt#12",
        answers={"train_steps": _one_after_the_other("B")},
    ),
    Fault(
        "T30",
        variant="A-first",
        says="B's gradient is computed after A's step, with the new A: the two do not step together",
        wrong="A <- A - lr dA(A, B), then B <- B - lr dB(A, B)",
        right="dA(A, B) and dB(A, B), then both steps",
        hidden_when="the test looks at one gradient alone",
        seen_in="hand-written training loops",
        answers={"train_steps": _one_after_the_other("A")},
    ),
    Fault(
        "T31",
        says="the loss is the sum of the squared errors of the window, not their mean",
        wrong="sum (prediction - Y)^2",
        right="(1 / n) sum (prediction - Y)^2, n the number of elements",
        hidden_when="there is one element",
        seen_in="XPixelGroup/BasicSR#359",
        parts=_divide_errors_by(lambda K, N, out: 1),
    ),
    Fault(
        "T31",
        variant="micro-batch",
        says="the squared errors of a micro-batch are added up, and the loss is the mean of the micro-batches' sums",
        wrong="(1 / K) sum (prediction - Y)^2",
        right="(1 / n) sum (prediction - Y)^2, n the number of elements",
        hidden_when="a micro-batch is one element",
        seen_in="hand-written training loops",
        parts=_divide_errors_by(lambda K, N, out: K),
    ),
    Fault(
        "T31",
        variant="outputs",
        says="the squared errors of a token are added up over its outputs, and the mean is over the tokens alone",
        wrong="(1 / (K N)) sum (prediction - Y)^2",
        right="(1 / (K N out)) sum (prediction - Y)^2",
        hidden_when="out = 1",
        seen_in="eje24/iap-diffusion-labs#21",
        parts=_divide_errors_by(lambda K, N, out: K * N),
    ),
    Fault(
        "T31",
        variant="tokens",
        says="each token's mean squared error is added up over the tokens of the window, not averaged",
        wrong="(1 / out) sum (prediction - Y)^2",
        right="(1 / (K N out)) sum (prediction - Y)^2",
        hidden_when="the window is one token",
        seen_in="hand-written training loops",
        parts=_divide_errors_by(lambda K, N, out: out),
    ),
    Fault(
        "T32",
        says="the gradient of the mean squared error lacks its factor 2",
        wrong="(1 / n) (prediction - Y)",
        right="(2 / n) (prediction - Y)",
        hidden_when="the gradients' sizes do not matter",
        seen_in="davisking/dlib#1169",
        parts={"mean_squared_error": _HALVE_GRADIENT},
    ),
    Fault(
        "T32",
        variant="loss",
        says="the loss is half the mean squared error, and so is its gradient",
        wrong="(1 / (2 n)) sum (prediction - Y)^2",
        right="(1 / n) sum (prediction - Y)^2",
        hidden_when="the gradients' sizes do not matter",
        seen_in="bfortuner/ml-glossary#144",
        parts={"mean_squared_error": _halve_loss},
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
]
