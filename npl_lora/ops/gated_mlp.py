"""gated_mlp: y = (act(x W_gate^T) o x W_up^T) W_down^T, the MLP of Llama and its kin.

Derivation. A composition: pullbacks in reverse order. x feeds two projections, so its gradient is the sum of both.

Source: Shazeer, "GLU Variants Improve Transformer", 2020, equation 6.
"""

from functools import partial

from ._interface import Array, Pullback
from .checks import check_inputs
from .compose import Stage, branch, chain, renamed
from .glu import glu
from .linear import linear


def gated_mlp(
    x: Array, W_gate: Array, W_up: Array, W_down: Array, *, activation: str = "silu"
) -> tuple[Array, Pullback]:
    """y = (act(x W_gate^T) o (x W_up^T)) W_down^T.

    x (..., C), W_gate (F, C), W_up (F, C), W_down (C, F) -> y (..., C). activation as in glu.
    The pullback differentiates x and the three weights.
    """
    check_inputs(x=(x, "... C"), W_gate=(W_gate, "F C"), W_up=(W_up, "F C"), W_down=(W_down, "C F"))

    def layer(name: str, W: Array) -> Stage:
        return renamed(partial(linear, W=W), {"W": name})

    inner = branch(partial(glu, activation=activation), gate=layer("W_gate", W_gate), up=layer("W_up", W_up))
    return chain(inner, layer("W_down", W_down))(x)
