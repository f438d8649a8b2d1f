"""Faults of hand-written backwards."""

from ...ops.namespace import rows
from .fault import Array, Fault, backward

_LAYERS = ("lora_linear", "lora_embedding", "dora_linear")  # a convolution is lora_linear on patches


def _nothing(grad, a):
    return grad * 0.0


def _in_layers(wrap):
    return dict.fromkeys(_LAYERS, wrap)


def low_rank_dx(a) -> Array:
    """What the low-rank path of lora_linear adds to dx: mask o (s dy B A)."""
    low = (a.scale * (a.dy @ a.B)) @ a.A
    return low if a.mask is None else low * a.mask


def _from_overwritten_x(name):
    """dA or dB as they come out when dx has been written over x before."""

    def change(grad, a):
        x = a.right(a.dy, wrt=("x",))["x"]
        if name == "A":
            return a.scale * (rows(a.dy @ a.B).T @ rows(x))
        return a.scale * (rows(a.dy).T @ rows(x @ a.A.T))

    return change


def _of_first_batch_row(name):
    """The gradient summed over the second to last axis alone, for the first index of the axes before it."""

    def change(grad, a):
        if a.dy.ndim < 3:
            return grad
        x, dy = (t[(0,) * (t.ndim - 2)] for t in (a.x if a.mask is None else a.x * a.mask, a.dy))
        if name == "A":
            return a.scale * ((dy @ a.B).T @ x)
        return a.scale * (dy.T @ (x @ a.A.T))

    return change


def _over_tokens(grad, a):
    tokens = 1
    for n in a.dy.shape[:-1]:
        tokens *= n
    return grad * (1.0 / tokens)


def _other_activation(name):
    """The gradient by gate with SiLU's derivative."""

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


FAULTS = [
    Fault(
        "B1",
        "dx is written over x before dA and dB are computed from it",
        "dA = s (dy B)^T dx, dB = s dy^T (dx A^T)",
        "dA = s (dy B)^T x, dB = s dy^T (x A^T)",
        "a first backward that computes dA and dB before it writes",
        "axolotl-ai-cloud/axolotl#3800; unslothai/unsloth#304, #895",
        parts={"lora_linear": backward(A=_from_overwritten_x("A"), B=_from_overwritten_x("B"))},
    ),
    Fault(
        "B2",
        "A and B get no gradient: the graph is cut between the loss and the adapter",
        "dA = dB = 0",
        "dA = s (dy B)^T x, dB = s dy^T (x A^T)",
        "a test that asks for the value only",
        "paiml/aprender#2232, #2092; huggingface/transformers#26221",
        parts=_in_layers(backward(A=_nothing, B=_nothing)),
    ),
    Fault(
        "B2",
        "no gradient comes back through rope: the adapters of q and k get none",
        "dq = 0 before rope",
        "dq = R^T dq",
        "a test that asks for v and o only",
        "paiml/aprender#2232",
        variant="rope",
        parts={"rope": backward(x=_nothing)},
    ),
    Fault(
        "B3",
        "no gradient reaches x, A and B, as in a checkpointed block whose inputs are frozen",
        "dx = dA = dB = 0",
        "dx, dA, dB as they are",
        "a test that asks for the value only",
        "huggingface/transformers#26221; microsoft/LoRA#120",
        parts={
            "lora_linear": backward(x=_nothing, A=_nothing, B=_nothing),
            "dora_linear": backward(x=_nothing, A=_nothing, B=_nothing, m=_nothing),
        },
    ),
    Fault(
        "B4",
        "the backward has SiLU's derivative whatever the activation is",
        "dgate = dy up silu'(gate)",
        "dgate = dy up act'(gate)",
        "activation silu",
        "foundation-model-stack/fms-acceleration#97",
        parts={"glu": _other_activation("silu")},
    ),
    Fault(
        "B4",
        "the backward of the exact GELU has the derivative of the tanh approximation",
        "dgate = dy up gelu_tanh'(gate)",
        "dgate = dy up gelu'(gate)",
        "activation gelu_tanh",
        "foundation-model-stack/fms-acceleration#97",
        variant="tanh",
        parts={"glu": lambda op: _tanh_backward(op)},
    ),
    Fault(
        "B9",
        "the base path is missing from dx",
        "dx = s (dy B) A",
        "dx = dy W + s (dy B) A",
        "a single layer, whose dx nobody uses",
        "hand-written backwards invite it",
        parts={"lora_linear": backward(x=lambda dx, a: low_rank_dx(a))},
    ),
    Fault(
        "B10",
        "the low-rank path is missing from dx",
        "dx = dy W",
        "dx = dy W + s (dy B) A",
        "B = 0",
        "hand-written backwards invite it",
        parts={"lora_linear": backward(x=lambda dx, a: a.dy @ a.W)},
    ),
    Fault(
        "B11",
        "dA and dB are those of the first row of the batch alone",
        "dA = s (dy_0 B)^T x_0",
        "dA = sum over the batch of s (dy_n B)^T x_n",
        "one row in the batch",
        "hand-written backwards invite it",
        parts={"lora_linear": backward(A=_of_first_batch_row("A"), B=_of_first_batch_row("B"))},
    ),
    Fault(
        "B12",
        "dA and dB are means over the tokens where they should be sums",
        "dA = (s / N) (dy B)^T x",
        "dA = s (dy B)^T x",
        "one token",
        "hand-written backwards invite it",
        parts={"lora_linear": backward(A=_over_tokens, B=_over_tokens)},
    ),
    Fault(
        "B13",
        "dA and dB have the wrong sign",
        "dA = -s (dy B)^T x, dB = -s dy^T (x A^T)",
        "dA = s (dy B)^T x, dB = s dy^T (x A^T)",
        "none",
        "hand-written backwards invite it",
        parts=_in_layers(backward(A=lambda g, a: -g, B=lambda g, a: -g)),
    ),
]


def _tanh_backward(op):
    tanh = _other_activation("gelu_tanh")(op)
    return lambda gate, up, *, activation="silu": (tanh if activation == "gelu" else op)(
        gate, up, activation=activation
    )
