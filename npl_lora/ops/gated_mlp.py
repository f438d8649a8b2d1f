"""gated_mlp: y = (act(x W_gate^T) o x W_up^T) W_down^T, the MLP of Llama and its kin.

Derivation. A composition: pullbacks in reverse order. x feeds two projections, so its gradient is the sum of both.

Source: Shazeer, "GLU Variants Improve Transformer", 2020, equation 6.
"""

from ._checks import check_inputs
from ._interface import Array, Pullback
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
    gate, gate_pullback = linear(x, W_gate)
    up, up_pullback = linear(x, W_up)
    inner, glu_pullback = glu(gate, up, activation=activation)
    y, down_pullback = linear(inner, W_down)

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        down = down_pullback(dy, wrt=("x", "W") if "W_down" in wrt else ("x",))
        d = glu_pullback(down["x"])
        names = ("x",) if "x" in wrt else ()
        through_gate = gate_pullback(d["gate"], wrt=(*names, "W") if "W_gate" in wrt else names)
        through_up = up_pullback(d["up"], wrt=(*names, "W") if "W_up" in wrt else names)
        grads = {"W_gate": through_gate.get("W"), "W_up": through_up.get("W"), "W_down": down.get("W")}
        if "x" in wrt:
            grads["x"] = through_gate["x"] + through_up["x"]
        return grads

    return y, Pullback(backward, y, inputs=("x", "W_gate", "W_up", "W_down"))
