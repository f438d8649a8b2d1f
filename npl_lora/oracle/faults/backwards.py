"""Faults of hand-written backward passes."""

import functools

from ...ops.namespace import rows
from .fault import Fault
from .lora_path import dropped_x, in_lora_ops, low_rank_dx
from .wraps import with_gradients


def _zero(grad, a):
    return grad * 0.0


def _gradient_after_overwriting(name):
    """dA or dB computed after dx has overwritten x."""

    def change(grad, a):
        x = a.right(a.dy, wrt=("x",))["x"]
        if name == "A":
            return a.scale * (rows(a.dy @ a.B).T @ rows(x))
        return a.scale * (rows(a.dy).T @ rows(x @ a.A.T))

    return change


def _gradient_of_first_row(name):
    """dA or dB summed over the tokens of the first batch row alone."""

    def change(grad, a):
        if a.dy.ndim < 3:
            return grad
        x, dy = (t[(0,) * (t.ndim - 2)] for t in (dropped_x(a), a.dy))
        if name == "A":
            return a.scale * ((dy @ a.B).T @ x)
        return a.scale * (dy.T @ (x @ a.A.T))

    return change


def _mean_over_tokens(grad, a):
    tokens = 1
    for n in a.dy.shape[:-1]:
        tokens *= n
    return grad * (1.0 / tokens)


def _derivative_of(name):
    """The gradient of gate, with the derivative of another activation."""

    def wrap(op):
        def wrong(gate, up, *, activation="silu"):
            y, right = op(gate, up, activation=activation)
            _, other = op(gate, up, activation=name)
            return y, type(right)(
                lambda dy, wrt: {**right(dy, wrt=wrt), **({"gate": other(dy)["gate"]} if "gate" in wrt else {})},
                y,
                right.inputs,
            )

        return wrong

    return wrap


def _derivative_of_tanh_for_gelu(op):
    tanh = _derivative_of("gelu_tanh")(op)
    return lambda gate, up, *, activation="silu": (tanh if activation == "gelu" else op)(
        gate, up, activation=activation
    )


def _train(*names):
    """Train these alone."""
    return lambda answer: functools.partial(answer, trained=names)


FAULTS = [
    Fault(
        "B1",
        says="dx overwrites x before dA and dB are computed from x",
        wrong="dA = s (dy B)^T dx, dB = s dy^T (dx A^T)",
        right="dA = s (dy B)^T x, dB = s dy^T (x A^T)",
        hidden_when="the first backward computes dA and dB before it writes dx",
        seen_in="axolotl-ai-cloud/axolotl#3800; unslothai/unsloth#304, #895",
        parts={"lora_linear": with_gradients(A=_gradient_after_overwriting("A"), B=_gradient_after_overwriting("B"))},
    ),
    Fault(
        "B2",
        says="A and B get no gradient: the graph is cut between the loss and the adapter",
        wrong="dA = dB = 0",
        right="dA = s (dy B)^T x, dB = s dy^T (x A^T)",
        hidden_when="the test checks the value only",
        seen_in="paiml/aprender#2232, #2092; huggingface/transformers#26221",
        parts=in_lora_ops(with_gradients(A=_zero, B=_zero)),
    ),
    Fault(
        "B2",
        variant="A",
        says="A gets no gradient: it is frozen, or cut off from the graph",
        wrong="dA = 0",
        right="dA = s (dy B)^T x",
        hidden_when="B = 0",
        seen_in="layers whose forward detaches A; LoRA-FA (Zhang et al. 2023), which freezes it on purpose",
        parts=in_lora_ops(with_gradients(A=_zero)),
    ),
    Fault(
        "B2",
        variant="B",
        says="B gets no gradient: it is frozen, or cut off from the graph",
        wrong="dB = 0",
        right="dB = s dy^T (x A^T)",
        hidden_when="the test checks the value only",
        seen_in="layers whose forward detaches B",
        parts=in_lora_ops(with_gradients(B=_zero)),
    ),
    Fault(
        "B2",
        variant="rope",
        says="no gradient passes back through rope, so the adapters of q and k get none",
        wrong="dq = 0 before rope",
        right="dq = R^T dq",
        hidden_when="the test checks v and o only",
        seen_in="paiml/aprender#2232",
        parts={"rope": with_gradients(x=_zero)},
    ),
    Fault(
        "B3",
        says="no gradient reaches x, A and B, as in a checkpointed block whose inputs are all frozen",
        wrong="dx = dA = dB = 0",
        right="dx = dy W + s (dy B) A, dA = s (dy B)^T x, dB = s dy^T (x A^T)",
        hidden_when="the test checks the value only",
        seen_in="huggingface/transformers#26221; microsoft/LoRA#120",
        parts={
            "lora_linear": with_gradients(x=_zero, A=_zero, B=_zero),
            "dora_linear": with_gradients(x=_zero, A=_zero, B=_zero, m=_zero),
        },
    ),
    Fault(
        "B4",
        says="the backward uses SiLU's derivative whatever the activation is",
        wrong="dgate = dy o up o silu'(gate)",
        right="dgate = dy o up o act'(gate)",
        hidden_when="the activation is silu",
        seen_in="foundation-model-stack/fms-acceleration#97",
        parts={"glu": _derivative_of("silu")},
    ),
    Fault(
        "B4",
        variant="tanh",
        says="the backward of the exact GELU uses the derivative of the tanh approximation",
        wrong="dgate = dy o up o gelu_tanh'(gate)",
        right="dgate = dy o up o gelu'(gate)",
        hidden_when="the activation is gelu_tanh",
        seen_in="foundation-model-stack/fms-acceleration#97",
        parts={"glu": _derivative_of_tanh_for_gelu},
    ),
    Fault(
        "B9",
        says="the base path is missing from dx",
        wrong="dx = s (dy B) A",
        right="dx = dy W + s (dy B) A",
        hidden_when="there is a single layer, whose dx nobody uses",
        seen_in="hand-written backward passes",
        parts={"lora_linear": with_gradients(x=lambda dx, a: low_rank_dx(a))},
    ),
    Fault(
        "B10",
        says="the low-rank path is missing from dx",
        wrong="dx = dy W",
        right="dx = dy W + s (dy B) A",
        hidden_when="B = 0",
        seen_in="hand-written backward passes",
        parts={"lora_linear": with_gradients(x=lambda dx, a: a.dy @ a.W)},
    ),
    Fault(
        "B10",
        variant="without-dropout",
        says="the low-rank path is missing from dx where there is no dropout, as when B A is added to W for the call",
        wrong="dx = dy W without a mask",
        right="dx = dy W + s (dy B) A",
        hidden_when="every test uses dropout, or B = 0",
        seen_in="CLIP-LoRA and its forks, which add s B A to W in place and subtract it after the call",
        parts={"lora_linear": with_gradients(x=lambda dx, a: a.dy @ a.W if a.mask is None else dx)},
    ),
    Fault(
        "B11",
        says="dA and dB come from the first row of the batch alone",
        wrong="dA = s (dy_0 B)^T x_0",
        right="dA = sum over the batch of s (dy_n B)^T x_n",
        hidden_when="the batch has one row",
        seen_in="hand-written backward passes",
        parts={"lora_linear": with_gradients(A=_gradient_of_first_row("A"), B=_gradient_of_first_row("B"))},
    ),
    Fault(
        "B12",
        says="dA and dB are means over the tokens instead of sums",
        wrong="dA = (s / N) (dy B)^T x",
        right="dA = s (dy B)^T x",
        hidden_when="there is one token",
        seen_in="hand-written backward passes",
        parts={"lora_linear": with_gradients(A=_mean_over_tokens, B=_mean_over_tokens)},
    ),
    Fault(
        "B13",
        says="dA and dB have the wrong sign",
        wrong="dA = -s (dy B)^T x, dB = -s dy^T (x A^T)",
        right="dA = s (dy B)^T x, dB = s dy^T (x A^T)",
        hidden_when="the test compares only values, or only the norms of gradients",
        seen_in="hand-written backward passes",
        parts=in_lora_ops(with_gradients(A=lambda g, a: -g, B=lambda g, a: -g)),
    ),
    Fault(
        "B14",
        says="A and B are not parameters of the model: the optimiser never sees them",
        wrong="A <- A, B <- B",
        right="A <- A after a step of the optimiser, B <- B after a step",
        hidden_when="the test looks at gradients alone",
        seen_in="layers with nn.Parameter(...).to(device), a plain tensor where the device or dtype changes",
        answers={"train_steps": _train()},
    ),
    Fault(
        "B14",
        variant="A",
        says="A is not a parameter of the model: the optimiser never sees it",
        wrong="A <- A",
        right="A <- A after a step of the optimiser",
        hidden_when="the test looks at gradients alone",
        seen_in="layers with nn.Parameter(...).to(device), a plain tensor where the device or dtype changes",
        answers={"train_steps": _train("B")},
    ),
    Fault(
        "B14",
        variant="B",
        says="B is not a parameter of the model: the optimiser never sees it",
        wrong="B <- B",
        right="B <- B after a step of the optimiser",
        hidden_when="the test looks at gradients alone",
        seen_in="layers with nn.Parameter(...).to(device), a plain tensor where the device or dtype changes",
        answers={"train_steps": _train("A")},
    ),
]
