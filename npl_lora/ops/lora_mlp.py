"""lora_mlp: the gated MLP with LoRA on all three projections.

    y = L_down(act(L_gate(x)) o L_up(x)),      L_n(z) = z W_n^T + s (z A_n^T) B_n^T

Derivation. A composition: pullbacks in reverse order. The gradient that reaches `down`'s input includes the low-rank
path of `down`; x feeds two projections, so its gradient is the sum of both.

Source: Hu et al. 2021 and Shazeer 2020, equation 6; the names are Llama's.
"""

from functools import partial
from typing import Any

from . import _building_blocks
from ._interface import Array, Pullback
from .checks import check_inputs, check_number
from .compose import Stage, branch, chain, renamed


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
    ops: Any = _building_blocks,
) -> tuple[Array, Pullback]:
    """y = L_down(act(L_gate(x)) o L_up(x)).

    x (..., C), W_gate and W_up (F, C), W_down (C, F), A_n (r, in of W_n), B_n (out of W_n, r) -> y (..., C).
    activation as in glu. ops: the lora_linear and glu that it is made of.
    The pullback differentiates x and the factors, and the weights when asked.
    """
    arrays = dict(W_gate=W_gate, W_up=W_up, W_down=W_down, A_gate=A_gate, B_gate=B_gate)
    arrays |= dict(A_up=A_up, B_up=B_up, A_down=A_down, B_down=B_down)
    shapes = dict(W_gate="F C", W_up="F C", W_down="C F", A_gate="r C", B_gate="F r")
    shapes |= dict(A_up="r C", B_up="F r", A_down="r F", B_down="C r")
    check_inputs(x=(x, "... C"), **{name: (arrays[name], shapes[name]) for name in arrays})
    scale = check_number("scale", scale)

    def L(n: str) -> Stage:
        layer = partial(ops.lora_linear, W=arrays[f"W_{n}"], A=arrays[f"A_{n}"], B=arrays[f"B_{n}"], scale=scale)
        return renamed(layer, {"W": f"W_{n}", "A": f"A_{n}", "B": f"B_{n}"})

    act_of_gate_times_up = branch(partial(ops.glu, activation=activation), gate=L("gate"), up=L("up"))
    return chain(act_of_gate_times_up, L("down"))(x)
