"""Faults of layout: factors read in another order, slots exchanged, adapters that are not there."""

from ...ops import Pullback
from .fault import Array, Fault, asked, backward, given, in_steps


def _misread(t: Array) -> Array:
    """A buffer (n, m) read as if it were stored (m, n): the same numbers in the same order, cut otherwise."""
    xp = t.__array_namespace__()
    return xp.reshape(t, tuple(reversed(t.shape))).T


def _written_back(d: Array) -> Array:
    """The gradient of a misread factor, written into a buffer of the factor's own shape."""
    return d.__array_namespace__().reshape(d.T, d.shape)


def _read_transposed(*names: str):
    def read(name):
        return lambda a: _misread(getattr(a, name))

    return in_steps(
        given(**{name: read(name) for name in names}), backward(**{n: lambda g, a: _written_back(g) for n in names})
    )


def _transposed_only(what: str):
    """Takes the transposed weight for an untransposed one; what fits only if the weight is square."""

    def wrap(op):
        def wrong(W, A, B, *, scale, fan_in_fan_out=False):
            if fan_in_fan_out and W.shape[0] != W.shape[1]:
                raise ValueError(f"{what} of {W.shape} with {(B.shape[0], A.shape[1])}")
            return op(W, A, B, scale=scale, fan_in_fan_out=False)

        return wrong

    return wrap


def _exchanged(a: str, b: str):
    """A contract answered with two names exchanged, in what is asked and in what is answered."""
    names = {a: b, b: a, f"d{a}": f"d{b}", f"d{b}": f"d{a}"}

    def wrap(answer):
        def wrong(arrays, config, d):
            right = answer({names.get(name, name): t for name, t in arrays.items()}, config, d)
            return {names.get(name, name): t for name, t in right.items()}

        return wrong

    return wrap


FAULTS = [
    Fault(
        "L1",
        "A and B are read in the transposed layout, with the same numbers cut otherwise",
        "A = buffer read as (in, r), transposed",
        "A = buffer read as (r, in)",
        "r = 1",
        "paiml/aprender#2138; osaurus-ai/vmlx-swift#320",
        parts={name: _read_transposed("A", "B") for name in ("lora_linear", "lora_embedding", "dora_linear")},
    ),
    Fault(
        "L1",
        "A is read in the transposed layout, with the same numbers cut otherwise",
        "A = buffer read as (in, r), transposed",
        "A = buffer read as (r, in)",
        "r = 1",
        "paiml/aprender#2138; osaurus-ai/vmlx-swift#320",
        variant="A",
        parts={name: _read_transposed("A") for name in ("lora_linear", "lora_embedding", "dora_linear")},
    ),
    Fault(
        "L1",
        "B is read in the transposed layout, with the same numbers cut otherwise",
        "B = buffer read as (r, out), transposed",
        "B = buffer read as (out, r)",
        "r = 1",
        "paiml/aprender#2138; osaurus-ai/vmlx-swift#320",
        variant="B",
        parts={name: _read_transposed("B") for name in ("lora_linear", "lora_embedding", "dora_linear")},
    ),
    Fault(
        "L2",
        "fan_in_fan_out is ignored in the merge: s B A is added to a weight that is stored transposed",
        "W (in, out) + s B A",
        "W (in, out) + s (B A)^T",
        "no test with fan_in_fan_out",
        "microsoft/LoRA#61, #103, #105",
        parts={"merge": _transposed_only("merge"), "unmerge": _transposed_only("unmerge")},
    ),
    Fault(
        "L3",
        "the merge transposes under fan_in_fan_out and the unmerge does not",
        "W + s (B A)^T - s B A",
        "W + s (B A)^T - s (B A)^T",
        "no test with fan_in_fan_out",
        "huggingface/peft#3531, #3532",
        parts={"unmerge": _transposed_only("unmerge")},
    ),
    Fault(
        "L6",
        "the adapters of gate and up are exchanged",
        "L_gate with A_up, B_up; L_up with A_gate, B_gate",
        "L_gate with A_gate, B_gate; L_up with A_up, B_up",
        "no test with both adapted",
        "sgl-project/sglang#34940",
        answers={
            "lora_mlp": lambda answer: _exchanged("A_gate", "A_up")(_exchanged("B_gate", "B_up")(answer)),
        },
    ),
    Fault(
        "L6",
        "the weights of gate and up are exchanged, and their adapters with them",
        "act(L_up(x)) o L_gate(x)",
        "act(L_gate(x)) o L_up(x)",
        "no test against another implementation",
        "sgl-project/sglang#34940",
        variant="whole",
        parts={"glu": lambda op: _glu_exchanged(op)},
    ),
    Fault(
        "L6",
        "the adapter of gate is loaded for up too",
        "L_up with A_gate, B_gate",
        "L_up with A_up, B_up",
        "no test with both adapted",
        "unslothai/unsloth-zoo#941",
        variant="gate-twice",
        answers={"lora_mlp": asked(arrays=lambda t, c: {"A_up": t["A_gate"], "B_up": t["B_gate"]})},
    ),
    Fault(
        "L10",
        "rope turns the interleaved pairs (2i, 2i + 1) where q and k are laid out in halves (i, i + D/2)",
        "pairs (2i, 2i + 1)",
        "pairs (i, i + D/2)",
        "D = 2, or positions alone at 0",
        "ooples/AiDotNet#2074; huggingface/nanotron#427",
        parts={"rope": given(interleaved=lambda a: True)},
    ),
    Fault(
        "L11",
        "the adapter is not applied: everything is as with B = 0",
        "y = x W^T, dA = 0",
        "y = x W^T + s (x A^T) B^T",
        "B = 0",
        "vllm-project/vllm#34186; huggingface/diffusers#9622",
        parts={name: given(B=lambda a: a.B * 0.0) for name in ("lora_linear", "lora_embedding", "dora_linear")},
    ),
    Fault(
        "L11",
        "the adapter is not applied, and gets no gradient",
        "y = x W^T, dA = dB = 0",
        "y = x W^T + s (x A^T) B^T",
        "B = 0",
        "vllm-project/vllm#34186; lablup/mlxcel#1328",
        variant="no-gradient",
        parts={
            name: in_steps(given(B=lambda a: a.B * 0.0), backward(B=lambda dB, a: dB * 0.0))
            for name in ("lora_linear", "lora_embedding", "dora_linear")
        },
    ),
]


def _glu_exchanged(op):
    def wrong(gate, up, *, activation="silu"):
        y, pullback = op(up, gate, activation=activation)

        def gradients(dy, wrt):
            grads = pullback(dy)
            return {"gate": grads["up"], "up": grads["gate"]}

        return y, Pullback(gradients, y, inputs=("gate", "up"))

    return wrong
