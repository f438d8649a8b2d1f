"""glu: y = act(gate) o up, the gate of a gated MLP.

Derivation. A product of two factors: d(up) = dy o act(gate), and act(gate) gets dy o up, which the activation's own
pullback carries to gate.

Source: Shazeer, "GLU Variants Improve Transformer", 2020, equation 5.
"""

from ._interface import Array, Pullback
from .checks import check_choice, check_inputs
from .gelu import gelu, gelu_tanh
from .relu import relu
from .silu import silu

ACTIVATIONS = {"silu": silu, "gelu": gelu, "gelu_tanh": gelu_tanh, "relu": relu}


def glu(gate: Array, up: Array, *, activation: str = "silu") -> tuple[Array, Pullback]:
    """y = act(gate) o up.

    gate (...), up (...) -> y (...). activation: "silu", "gelu", "gelu_tanh" or "relu".
    The pullback differentiates gate and up.
    """
    check_inputs(gate=(gate, "..."), up=(up, "..."))
    act = ACTIVATIONS[check_choice("activation", activation, ACTIVATIONS)]
    y = act(gate)[0] * up

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        grads = {}
        a, act_pullback = act(gate)  # again: it costs less than keeping what it makes
        if "gate" in wrt:
            grads["gate"] = act_pullback(dy * up)["z"]
        if "up" in wrt:
            grads["up"] = dy * a
        return grads

    return y, Pullback(backward, y, inputs=("gate", "up"))
