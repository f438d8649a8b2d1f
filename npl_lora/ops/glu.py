"""glu: y = act(gate) o up, the gate of a gated MLP.

Derivation. y is a product of two factors. So d(up) = dy o act(gate), and act(gate) gets dy o up, which the activation's
own pullback carries on to gate.

Source: Shazeer, "GLU Variants Improve Transformer", 2020, equation 5.
"""

from __future__ import annotations

from ._interface import Array, Pullback
from .checks import check_choice, check_inputs
from .gelu import gelu, gelu_tanh
from .relu import relu
from .silu import silu

ACTIVATIONS = {
    "silu": silu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "relu": relu,
}


def glu(
    gate: Array,  # (...)
    up: Array,  # (...)
    *,
    activation: str = "silu",  # act: "silu", "gelu", "gelu_tanh" or "relu"
) -> tuple[Array, Pullback]:  # y (...)
    """y = act(gate) o up.

    Shapes: gate (...), up (...) -> y (...), all of one shape.

    activation: "silu", "gelu", "gelu_tanh" or "relu". The pullback differentiates gate and up.
    Derivation: at the top of npl_lora/ops/glu.py.
    """
    check_inputs(gate=(gate, "..."), up=(up, "..."))
    act = ACTIVATIONS[check_choice("activation", activation, ACTIVATIONS)]
    y = act(gate)[0] * up

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        grads = {}
        a, act_pullback = act(gate)  # computed again: that costs less than keeping what it holds
        if "gate" in wrt:
            grads["gate"] = act_pullback(dy * up)["z"]  # forward was: y = act(gate) o up
        if "up" in wrt:
            grads["up"] = dy * a  # forward was: y = act(gate) o up
        return grads

    return y, Pullback(backward, y, inputs=("gate", "up"))
