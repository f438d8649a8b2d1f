"""What an implementation may take for an activation of a gated MLP, or for its derivative."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ...ops import Pullback
from ...ops.glu import ACTIVATIONS
from ...ops.namespace import normal_cdf, normal_pdf, sigmoid
from ...support.array import Array

Activation = Callable[[Array], tuple[Array, Array]]  # z -> act(z), act'(z)
Derivative = Callable[[Array], Array]


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


def _doubled(act: Activation, z: Array) -> tuple[Array, Array]:
    a, slope = act(z)
    return 2.0 * a, 2.0 * slope


def _gelu(inner: float, z: Array) -> tuple[Array, Array]:
    """z Phi(inner z)."""
    return z * normal_cdf(inner * z), normal_cdf(inner * z) + inner * z * normal_pdf(inner * z)


def _gelu_tanh(factor: float, cubic: float, z: Array) -> tuple[Array, Array]:
    """z (1 + tanh(factor (z + cubic z^3))) / 2."""
    two_u, d_two_u = 2.0 * factor * (z + cubic * z * z * z), 2.0 * factor * (1.0 + 3.0 * cubic * z * z)
    sigma = sigmoid(two_u)
    return z * sigma, sigma + z * sigma * sigmoid(-two_u) * d_two_u


_FACTOR, _CUBIC = math.sqrt(2.0 / math.pi), 0.044715

WRONG_CONSTANTS: Mapping[str, Mapping[str, Activation]] = {
    "gelu": {
        "gelu lacked its factor 1/2": partial(_doubled, partial(_gelu, 1.0)),
        "gelu had erf(z) for erf(z / sqrt(2))": partial(_gelu, math.sqrt(2.0)),
    },
    "gelu_tanh": {
        "gelu_tanh lacked its factor 1/2": partial(_doubled, partial(_gelu_tanh, _FACTOR, _CUBIC)),
        "gelu_tanh lacked sqrt(2 / pi)": partial(_gelu_tanh, 1.0, _CUBIC),
        "gelu_tanh had 0.44715 for 0.044715": partial(_gelu_tanh, _FACTOR, 10.0 * _CUBIC),
    },
}


def _silu_slope_of_activated(z: Array) -> Array:
    sigma = sigmoid(z * sigmoid(z))
    return sigma * (1.0 + z * (1.0 - sigma))


def _gelu_tanh_slope_without_square(z: Array) -> Array:
    sigma = sigmoid(2.0 * _FACTOR * (z + _CUBIC * z * z * z))  # (1 + tanh u) / 2, so that 1 - tanh u is 2 (1 - sigma)
    return sigma + z * (1.0 - sigma) * _FACTOR * (1.0 + 3.0 * _CUBIC * z * z)


WRONG_DERIVATIVES: Mapping[str, Mapping[str, Derivative]] = {
    "silu": {
        "sigma(z) + z (1 - sigma(z))": lambda z: sigmoid(z) + z * (1.0 - sigmoid(z)),
        "sigma(a) (1 + z (1 - sigma(a))), with a = silu(z)": _silu_slope_of_activated,
    },
    "gelu": {
        "Phi(z) + phi(z)": lambda z: normal_cdf(z) + normal_pdf(z),
        "Phi(z) + z exp(-z^2) / sqrt(2 pi)": lambda z: normal_cdf(z) + z * normal_pdf(math.sqrt(2.0) * z),
    },
    "gelu_tanh": {"its own with 1 - tanh(u) for 1 - tanh(u)^2": _gelu_tanh_slope_without_square},
}


def slope_of(name: str, z: Array) -> Array:
    """The derivative of one of these activations, or of a gated MLP's own."""
    if name in OTHER_ACTIVATIONS:
        return OTHER_ACTIVATIONS[name](z)[1]
    _, pullback = ACTIVATIONS[name](z)
    return pullback(0.0 * z + 1.0)["z"]


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


def where_asked(name: str, act: Activation, glu: Any) -> Any:
    """glu with another activation where `name` is asked for."""
    other = with_activation(act, glu)

    def wrong(gate: Array, up: Array, *, activation: str = "") -> tuple[Array, Pullback]:
        result: tuple[Array, Pullback] = (other if activation == name else glu)(gate, up, activation=activation)
        return result

    return wrong


def with_derivative(slope: Callable[[Array, str], Array], glu: Any) -> Any:
    """glu with slope(gate, activation) in the place of the activation's derivative."""

    def wrong(gate: Array, up: Array, *, activation: str = "") -> tuple[Array, Pullback]:
        y, right = glu(gate, up, activation=activation)

        def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
            changed = {"gate": dy * up * slope(gate, activation)} if "gate" in wrt else {}
            return {**right(dy, wrt=wrt), **changed}

        return y, Pullback(backward, y, right.inputs, right.frozen)

    return wrong


def derivatives(activation: str) -> dict[str, Callable[[Array, str], Array]]:
    """{clause: slope(gate, activation)}: what may stand in the place of this activation's derivative."""

    def where(slope: Derivative) -> Callable[[Array, str], Array]:
        return lambda z, asked: slope(z) if asked == activation else slope_of(asked, z)

    others = sorted(ACTIVATIONS.keys() - {activation}) + sorted(OTHER_ACTIVATIONS)
    return {
        "the derivative of the activation were taken of the activated value": lambda z, asked: slope_of(
            asked, ACTIVATIONS[asked](z)[0]
        ),
        **{
            f"the derivative of the activation were that of {other}": partial(_slope_of_other, other)
            for other in others
        },
        **{
            f"the derivative of {activation} were {says}": where(slope)
            for says, slope in WRONG_DERIVATIVES.get(activation, {}).items()
        },
    }


def _slope_of_other(other: str, z: Array, asked: str) -> Array:
    return slope_of(other, z)
