"""lora_mlp: the gated MLP with LoRA on all three projections.

    y = L_down(act(L_gate(x)) o L_up(x))

    L_n(z) = z W_n^T + s (z A_n^T) B_n^T     a lora_linear for each n = gate, up, down

Derivation. The op is a composition, so its backward calls the pullbacks of its stages in reverse order (see
compose.py). What reaches the input of L_down includes L_down's low-rank path. x enters two projections, so dx is the
sum of what comes back through both.

Source: Hu et al. 2021 and Shazeer 2020, equation 6; the names are Llama's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from . import _building_blocks
from ._interface import Array, Pullback
from .checks import check_inputs, check_number
from .compose import Op, Stage, branch, chain, renamed


def lora_mlp(
    x: Array,  # (..., C)
    W_gate: Array,  # (F, C), frozen
    W_up: Array,  # (F, C), frozen
    W_down: Array,  # (C, F), frozen
    A_gate: Array,  # (r, C)
    B_gate: Array,  # (F, r)
    A_up: Array,  # (r, C)
    B_up: Array,  # (F, r)
    A_down: Array,  # (r, F)
    B_down: Array,  # (C, r)
    *,
    scale: float,  # s, as in lora_linear
    activation: str = "silu",  # act, as in glu
    ops: Any = None,  # the lora_linear and glu to use
) -> tuple[Array, Pullback]:  # y (..., C)
    """y = L_down(act(L_gate(x)) o L_up(x)), with L_n(z) = z W_n^T + scale (z A_n^T) B_n^T.

    Shapes: x (..., C); W_gate (F, C), W_up (F, C) and W_down (C, F) frozen;
        A_gate (r, C), B_gate (F, r), A_up (r, C), B_up (F, r), A_down (r, F), B_down (C, r) -> y (..., C).

    activation: "silu", "gelu", "gelu_tanh" or "relu".
    ops: the lora_linear and glu that this op is composed of, npl_lora.ops's own unless given.
    The pullback differentiates x and the factors, and the weights when `wrt` names them.
    Raises TypeError and ValueError for arguments that do not fit together.
    Derivation: at the top of npl_lora/ops/lora_mlp.py.
    """
    arrays = dict(W_gate=W_gate, W_up=W_up, W_down=W_down, A_gate=A_gate, B_gate=B_gate)
    arrays |= dict(A_up=A_up, B_up=B_up, A_down=A_down, B_down=B_down)
    shapes = dict(W_gate="F C", W_up="F C", W_down="C F", A_gate="r C", B_gate="F r")
    shapes |= dict(A_up="r C", B_up="F r", A_down="r F", B_down="C r")
    check_inputs(x=(x, "... C"), **{name: (arrays[name], shapes[name]) for name in arrays})
    scale = check_number("scale", scale)
    ops = _building_blocks if ops is None else ops

    def L(n: str) -> Stage:
        layer = partial(ops.lora_linear, W=arrays[f"W_{n}"], A=arrays[f"A_{n}"], B=arrays[f"B_{n}"], scale=scale)
        return renamed(layer, {"W": f"W_{n}", "A": f"A_{n}", "B": f"B_{n}"})

    return mlp_block(L, partial(ops.glu, activation=activation))(x)


def mlp_block(L: Callable[[str], Stage], act_of_gate_times_up: Op) -> Stage:
    """y = L_down(act(L_gate(x)) o L_up(x)), for whatever L(n) is the projection n."""
    return chain(branch(act_of_gate_times_up, gate=L("gate"), up=L("up")), L("down"))
