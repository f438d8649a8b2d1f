"""gated_mlp: the MLP of Llama and its kin.

    y = (act(x W_gate^T) o x W_up^T) W_down^T

Derivation. The op is a composition, so its backward calls the pullbacks of its stages in reverse order (see
compose.py). x enters two projections, so dx is the sum of what comes back through both.

Source: Shazeer, "GLU Variants Improve Transformer", 2020, equation 6.
"""

from __future__ import annotations

from functools import partial

from ._interface import Array, Pullback
from .checks import check_inputs
from .compose import Stage, branch, chain, renamed
from .glu import glu
from .linear import linear


def gated_mlp(
    x: Array,  # (..., C)
    W_gate: Array,  # (F, C)
    W_up: Array,  # (F, C)
    W_down: Array,  # (C, F)
    *,
    activation: str = "silu",  # act, as in glu
) -> tuple[Array, Pullback]:  # y (..., C)
    """y = (act(x W_gate^T) o x W_up^T) W_down^T.

    Shapes: x (..., C), W_gate (F, C), W_up (F, C), W_down (C, F) -> y (..., C).

    The pullback differentiates x and the three weights. Raises TypeError and ValueError for arguments that do not fit.
    Derivation: at the top of npl_lora/ops/gated_mlp.py.
    """
    check_inputs(x=(x, "... C"), W_gate=(W_gate, "F C"), W_up=(W_up, "F C"), W_down=(W_down, "C F"))

    def projection(name: str, W: Array) -> Stage:
        return renamed(partial(linear, W=W), {"W": name})

    gate, up = projection("W_gate", W_gate), projection("W_up", W_up)
    act_of_gate_times_up = branch(partial(glu, activation=activation), gate=gate, up=up)
    return chain(act_of_gate_times_up, projection("W_down", W_down))(x)
