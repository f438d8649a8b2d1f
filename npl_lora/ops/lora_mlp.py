"""lora_mlp: the gated MLP with LoRA on all three projections.

    y = L_down(act(L_gate(x)) o L_up(x)),      L_n(z) = z W_n^T + s (z A_n^T) B_n^T

Derivation. A composition: pullbacks in reverse order. The gradient that reaches `down`'s input includes the low-rank
path of `down`; x feeds two projections, so its gradient is the sum of both.

Source: Hu et al. 2021 and Shazeer 2020, equation 6; the names are Llama's.
"""

from typing import Any

from . import _parts
from ._checks import check_inputs, check_number
from ._interface import Array, Pullback
from ._projections import Projections


def lora_mlp(
    x: Array,
    W_gate: Array,
    W_up: Array,
    W_down: Array,
    A_gate: Array,
    B_gate: Array,
    A_up: Array,
    B_up: Array,
    A_down: Array,
    B_down: Array,
    *,
    scale: float,
    activation: str = "silu",
    parts: Any = _parts,
) -> tuple[Array, Pullback]:
    """y = L_down(act(L_gate(x)) o L_up(x)).

    x (..., C), W_gate and W_up (F, C), W_down (C, F), A_n (r, in of W_n), B_n (out of W_n, r) -> y (..., C).
    activation as in glu. parts: the lora_linear and glu that it is made of.
    The pullback differentiates x and the factors, and the weights when asked.
    """
    arrays = dict(W_gate=W_gate, W_up=W_up, W_down=W_down, A_gate=A_gate, B_gate=B_gate)
    arrays |= dict(A_up=A_up, B_up=B_up, A_down=A_down, B_down=B_down)
    shapes = dict(W_gate="F C", W_up="F C", W_down="C F", A_gate="r C", B_gate="F r")
    shapes |= dict(A_up="r C", B_up="F r", A_down="r F", B_down="C r")
    check_inputs(x=(x, "... C"), **{name: (arrays[name], shapes[name]) for name in arrays})
    block = Projections(
        {"gate": "W_gate", "up": "W_up", "down": "W_down"}, arrays, check_number("scale", scale), parts.lora_linear
    )

    inner, glu_pullback = parts.glu(block.forward("gate", x), block.forward("up", x), activation=activation)
    y = block.forward("down", inner)

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        dx = "x" in wrt
        down = block.backward("down", dy, wrt)
        d = glu_pullback(down["x"])
        gate = block.backward("gate", d["gate"], wrt, dx)
        up = block.backward("up", d["up"], wrt, dx)
        grads = {**down, **gate, **up}
        if dx:
            grads["x"] = gate["x"] + up["x"]
        return grads

    return y, Pullback(backward, y, inputs=("x", *block.trained, *block.frozen), frozen=block.frozen)
