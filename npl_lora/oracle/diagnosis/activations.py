"""Activations that are none of a gated MLP's: what an implementation may take for one of them."""

from collections.abc import Callable
from typing import Any

from ...ops import Pullback
from ...ops.namespace import sigmoid
from ...support.array import Array

Activation = Callable[[Array], tuple[Array, Array]]  # z -> act(z), act'(z)


def _quick_gelu(z: Array) -> tuple[Array, Array]:
    sigma = sigmoid(1.702 * z)
    return z * sigma, sigma + 1.702 * z * sigma * (1.0 - sigma)


def _sigmoid(z: Array) -> tuple[Array, Array]:
    sigma = sigmoid(z)
    return sigma, sigma * (1.0 - sigma)


def _tanh(z: Array) -> tuple[Array, Array]:
    t = 2.0 * sigmoid(2.0 * z) - 1.0
    return t, 1.0 - t * t


def _squared_relu(z: Array) -> tuple[Array, Array]:
    xp = z.__array_namespace__()
    positive = xp.where(z > 0, z, 0.0 * z)
    return positive * positive, 2.0 * positive


def _hard_silu(z: Array) -> tuple[Array, Array]:
    xp, zero = z.__array_namespace__(), 0.0 * z
    between = xp.where(z > 3.0, zero + 1.0, xp.where(z < -3.0, zero, (z + 3.0) / 6.0))
    slope = xp.where(z > 3.0, zero + 1.0, xp.where(z < -3.0, zero, (2.0 * z + 3.0) / 6.0))
    return z * between, slope


def _leaky_relu(z: Array) -> tuple[Array, Array]:
    xp = z.__array_namespace__()
    slope = xp.where(z > 0, 0.0 * z + 1.0, 0.0 * z + 0.01)
    return slope * z, slope


def _softplus(z: Array) -> tuple[Array, Array]:
    xp = z.__array_namespace__()
    return xp.log(1.0 + xp.exp(z)), sigmoid(z)


def _none(z: Array) -> tuple[Array, Array]:
    return z, 0.0 * z + 1.0


OTHER_ACTIVATIONS: dict[str, Activation] = {
    "z sigmoid(1.702 z), the quick GELU": _quick_gelu,
    "the sigmoid": _sigmoid,
    "tanh": _tanh,
    "the squared ReLU": _squared_relu,
    "the hard SiLU": _hard_silu,
    "the leaky ReLU with 0.01": _leaky_relu,
    "the softplus": _softplus,
    "the identity": _none,
}


def with_activation(act: Activation, glu: Any) -> Any:
    """glu with another activation in the place of its own."""

    def wrong(gate: Array, up: Array, *, activation: str = "") -> tuple[Array, Pullback]:
        a, slope = act(gate)
        y = a * up

        def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
            grads = {"gate": dy * up * slope, "up": dy * a}
            return {name: grads[name] for name in wrt}

        return y, Pullback(backward, y, ("gate", "up"))

    return wrong
