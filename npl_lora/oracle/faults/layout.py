"""Faults of layout: factors read in the wrong order, swapped modules, adapters that are not applied."""

from ...ops import Pullback
from ...support.array import Array
from .fault import Fault
from .lora_path import in_lora_ops
from .wraps import compose, with_arguments, with_gradients, with_question


def _misread(t: Array) -> Array:
    """Read a buffer (n, m) as if it were stored (m, n): reshape it to (m, n) and transpose."""
    xp = t.__array_namespace__()
    return xp.reshape(t, tuple(reversed(t.shape))).T


def _write_back(d: Array) -> Array:
    """Write the gradient of a misread factor into a buffer of the factor's own shape."""
    return d.__array_namespace__().reshape(d.T, d.shape)


def _read_transposed(*names: str):
    def read(name):
        return lambda a: _misread(getattr(a, name))

    return compose(
        with_arguments(**{name: read(name) for name in names}),
        with_gradients(**{n: lambda g, a: _write_back(g) for n in names}),
    )


def _ignore_fan_in_fan_out(what: str):
    """Treat a transposed weight as an untransposed one. The shapes fit only if the weight is square."""

    def wrap(op):
        def wrong(W, A, B, *, scale, fan_in_fan_out=False):
            if fan_in_fan_out and W.shape[0] != W.shape[1]:
                raise ValueError(f"{what} of {W.shape} with {(B.shape[0], A.shape[1])}")
            return op(W, A, B, scale=scale, fan_in_fan_out=False)

        return wrong

    return wrap


def _limit_rank(op):
    """Leave out the ranks beyond min(in, out), which then get no gradient."""

    def keep(axis):
        def change(t, a):
            xp, limit = t.__array_namespace__(), min(a.W.shape)
            inside = xp.expand_dims(xp.arange(t.shape[axis]) < limit, axis=1 - axis)
            return xp.where(inside, t, xp.zeros_like(t))

        return change

    return compose(
        with_arguments(A=lambda a: keep(0)(a.A, a), B=lambda a: keep(1)(a.B, a)), with_gradients(A=keep(0), B=keep(1))
    )(op)


def _swap(a: str, b: str):
    """Answer a contract with two inputs swapped, and swap their gradients back."""
    names = {a: b, b: a, f"d{a}": f"d{b}", f"d{b}": f"d{a}"}

    def wrap(answer):
        def wrong(arrays, config, d):
            right = answer({names.get(name, name): t for name, t in arrays.items()}, config, d)
            return {names.get(name, name): t for name, t in right.items()}

        return wrong

    return wrap


def _swap_gate_and_up(op):
    def wrong(gate, up, *, activation="silu"):
        y, pullback = op(up, gate, activation=activation)

        def gradients(dy, wrt):
            grads = pullback(dy)
            return {"gate": grads["up"], "up": grads["gate"]}

        return y, Pullback(gradients, y, inputs=("gate", "up"))

    return wrong


FAULTS = [
    Fault(
        "L1",
        says="A and B are read as if they were stored transposed: the numbers are right, their places are not",
        wrong="A = reshape(buffer, (in, r))^T, B = reshape(buffer, (r, out))^T",
        right="A = reshape(buffer, (r, in)), B = reshape(buffer, (out, r))",
        hidden_when="r = 1",
        seen_in="paiml/aprender#2138; osaurus-ai/vmlx-swift#320",
        parts=in_lora_ops(_read_transposed("A", "B")),
    ),
    Fault(
        "L1",
        variant="A",
        says="A is read as if it were stored transposed: the numbers are right, their places are not",
        wrong="A = reshape(buffer, (in, r))^T",
        right="A = reshape(buffer, (r, in))",
        hidden_when="r = 1",
        seen_in="paiml/aprender#2138; osaurus-ai/vmlx-swift#320",
        parts=in_lora_ops(_read_transposed("A")),
    ),
    Fault(
        "L1",
        variant="B",
        says="B is read as if it were stored transposed: the numbers are right, their places are not",
        wrong="B = reshape(buffer, (r, out))^T",
        right="B = reshape(buffer, (out, r))",
        hidden_when="r = 1",
        seen_in="paiml/aprender#2138; osaurus-ai/vmlx-swift#320",
        parts=in_lora_ops(_read_transposed("B")),
    ),
    Fault(
        "L2",
        says="the merge ignores fan_in_fan_out: it adds s B A to a weight that is stored transposed",
        wrong="W + s B A, with W stored as (in, out)",
        right="W + s (B A)^T, with W stored as (in, out)",
        hidden_when="no test sets fan_in_fan_out",
        seen_in="microsoft/LoRA#61, #103, #105",
        parts={"merge": _ignore_fan_in_fan_out("merge"), "unmerge": _ignore_fan_in_fan_out("unmerge")},
    ),
    Fault(
        "L3",
        says="with fan_in_fan_out the merge transposes the update, but the unmerge does not",
        wrong="W + s (B A)^T - s B A",
        right="W + s (B A)^T - s (B A)^T",
        hidden_when="no test sets fan_in_fan_out",
        seen_in="huggingface/peft#3531, #3532",
        parts={"unmerge": _ignore_fan_in_fan_out("unmerge")},
    ),
    Fault(
        "L6",
        says="the adapters of gate and up are swapped",
        wrong="L_gate with A_up, B_up; L_up with A_gate, B_gate",
        right="L_gate with A_gate, B_gate; L_up with A_up, B_up",
        hidden_when="no test adapts both",
        seen_in="sgl-project/sglang#34940",
        answers={
            "lora_mlp": lambda answer: _swap("A_gate", "A_up")(_swap("B_gate", "B_up")(answer)),
        },
    ),
    Fault(
        "L6",
        variant="whole",
        says="gate and up are swapped, the weights together with their adapters",
        wrong="act(L_up(x)) o L_gate(x)",
        right="act(L_gate(x)) o L_up(x)",
        hidden_when="no test compares with another implementation",
        seen_in="sgl-project/sglang#34940",
        parts={"glu": _swap_gate_and_up},
    ),
    Fault(
        "L6",
        variant="gate-twice",
        says="the adapter of gate is loaded for up as well",
        wrong="L_up with A_gate, B_gate",
        right="L_up with A_up, B_up",
        hidden_when="no test adapts both",
        seen_in="unslothai/unsloth-zoo#941",
        answers={"lora_mlp": with_question(arrays=lambda t, c: {"A_up": t["A_gate"], "B_up": t["B_gate"]})},
    ),
    Fault(
        "L10",
        says="rope rotates the interleaved pairs (2i, 2i + 1), but q and k are laid out in halves (i, i + D/2)",
        wrong="pairs (2i, 2i + 1)",
        right="pairs (i, i + D/2)",
        hidden_when="D = 2, or every position is 0",
        seen_in="ooples/AiDotNet#2074; huggingface/nanotron#427",
        parts={"rope": with_arguments(interleaved=lambda a: True)},
    ),
    Fault(
        "L11",
        says="the adapter is not applied: everything is computed as if B were 0",
        wrong="y = x W^T, dA = 0",
        right="y = x W^T + s (x A^T) B^T, dA = s (dy B)^T x",
        hidden_when="B = 0",
        seen_in="vllm-project/vllm#34186; huggingface/diffusers#9622",
        parts=in_lora_ops(with_arguments(B=lambda a: a.B * 0.0)),
    ),
    Fault(
        "L11",
        variant="no-gradient",
        says="the adapter is not applied and gets no gradient",
        wrong="y = x W^T, dA = dB = 0",
        right="y = x W^T + s (x A^T) B^T, dA = s (dy B)^T x, dB = s dy^T (x A^T)",
        hidden_when="B = 0",
        seen_in="vllm-project/vllm#34186; lablup/mlxcel#1328",
        parts=in_lora_ops(compose(with_arguments(B=lambda a: a.B * 0.0), with_gradients(B=lambda dB, a: dB * 0.0))),
    ),
    Fault(
        "L14",
        says="the rank is limited to min(in, out): the rows of A and the columns of B beyond it are left out",
        wrong="B[:, :k] A[:k] with k = min(r, in, out)",
        right="B A",
        hidden_when="r <= min(in, out)",
        seen_in="hand-written layers that limit the rank without a word",
        parts={"lora_linear": _limit_rank},
    ),
]
