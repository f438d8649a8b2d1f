"""train_steps: a few optimiser steps on A and B, with accumulation."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from ...lora import AdamWState
from ..definition import RIGHT, Definition
from .contract import Array, Config, Contract, Draw, lora

_ONE_RATE: Mapping[str, float] = MappingProxyType({})

Gradients = Callable[[Mapping[str, Array], Config, Definition, tuple[str, ...]], tuple[Array, dict[str, Array]]]


def loss_and_pullback(
    arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT
) -> tuple[Array, Callable[..., dict[str, Array]]]:
    """The mean squared error over all elements of X (k, N, in) and Y (k, N, out); its pullback to A and B."""
    X, W, A, B = (arrays[name] for name in ("X", "W", "A", "B"))
    prediction, layer_pullback = d.lora_linear(X, W, A, B, scale=d.scale(config))
    loss, loss_pullback = d.mean_squared_error(prediction, arrays["Y"])
    return loss, lambda dloss, wrt=("A", "B"): layer_pullback(loss_pullback(dloss)["prediction"], wrt=wrt)


def loss_and_gradients(
    arrays: Mapping[str, Array], config: Config, d: Definition, trained: tuple[str, ...]
) -> tuple[Array, dict[str, Array]]:
    """loss, {"A": dA, "B": dB}, from the pullbacks."""
    loss, pullback = loss_and_pullback(arrays, config, d)
    return loss, pullback(1.0, trained)


def answer(
    arrays: Mapping[str, Array],
    config: Config,
    d: Definition = RIGHT,
    gradients: Gradients = loss_and_gradients,
    trained: tuple[str, ...] = ("A", "B"),
    rates: Mapping[str, float] = _ONE_RATE,
    together: bool = True,
) -> dict[str, Array]:
    """losses, each before its step; A_after, B_after, W_after.

    gradients: whoever computes them. rates: what the learning rate is multiplied by, for those that have their own.
    together: whether every gradient of a window is that before its first step, or that before the parameter's own step.
    """
    X, Y = arrays["X"], arrays["Y"]
    now = {name: arrays[name] for name in ("W", "A", "B")}
    state = {name: AdamWState() for name in trained}
    losses = []
    for start in range(0, X.shape[0], config["accumulation"]):
        window = {"X": X[start : start + config["accumulation"]], "Y": Y[start : start + config["accumulation"]]}
        loss, grads = gradients({**now, **window}, config, d, trained)
        losses.append(loss)
        for name in trained:
            if not together and name != trained[0]:
                _, grads = gradients({**now, **window}, config, d, trained)
            now[name], state[name] = _step(
                now[name], grads[name], state[name], {**config, "lr": config["lr"] * rates.get(name, 1.0)}, d
            )
    after = {f"{name}_after": now[name] for name in ("A", "B", "W")}
    return {"losses": X.__array_namespace__().stack(tuple(losses), axis=0), **after}


def _step(p: Array, g: Array, state: AdamWState, config: Config, d: Definition) -> tuple[Array, AdamWState]:
    if config["optimizer"] == "sgd":
        return d.sgd(p, g, lr=config["lr"], weight_decay=config["weight_decay"]), state
    how = {name: config[name] for name in ("lr", "weight_decay", "betas", "eps")}
    return d.adamw(p, g, state, **how)


def _run(draw: Draw, K: int, N: int, out: int, in_: int, config: Config) -> tuple[dict[str, np.ndarray], Config]:
    A, B = draw.factors(out, in_, config["r"])
    X, Y = draw.normal(K, N, in_), draw.normal(K, N, out, std=2.0)
    return {"X": X, "Y": Y, "W": draw.weight(out, in_), "A": A, "B": B}, config


def _optimizer(name: str, lr: float, weight_decay: float, accumulation: int) -> Config:
    """Rates and betas are dyadic: the same number in every dtype. eps and decay are large enough to show in float16."""
    how = {"optimizer": name, "lr": lr, "weight_decay": weight_decay, "accumulation": accumulation}
    return {**how, "betas": [0.875, 0.96875], "eps": 2.0**-4}


_LEAST_GRADIENT = 1 / 16  # of the root mean square of its step's: AdamW makes a full step of what is only rounding


def _run_adamw(draw: Draw, K: int, N: int, out: int, in_: int, config: Config) -> tuple[dict[str, np.ndarray], Config]:
    """Drawn again until no gradient is tiny. Looked for in float64: all dtypes are to draw the same numbers."""
    wide = draw.widened()
    while True:
        arrays, _ = _run(wide, K, N, out, in_, config)
        if min(least_gradients(arrays, config)) >= _LEAST_GRADIENT:
            return {name: draw.stored(array) for name, array in arrays.items()}, config


def least_gradients(arrays: Mapping[str, np.ndarray], config: Config) -> list[float]:
    """For A and B in each step: the smallest entry of the gradient, in units of its root mean square."""
    found: list[float] = []

    def gradients(*what: Any) -> tuple[Array, dict[str, Array]]:
        loss, grads = loss_and_gradients(*what)
        found.extend(float(np.min(np.abs(g)) / np.sqrt(np.mean(g**2))) for g in grads.values())
        return loss, grads

    answer(arrays, config, RIGHT, gradients)
    return found


_EXACT_STEPS = {"float64": 3, "float32": 2}  # each step multiplies the digits; half precision has them for one


def _exact_sgd(draw: Draw) -> tuple[dict[str, np.ndarray], Config]:
    """A loss over n = 4 elements, s lr 2 / n = 1, lr weight_decay = 2: after a step A and B are whole numbers again."""
    config = {**lora(2, 8), **_optimizer("sgd", 0.5, 4.0, 1)}
    while True:
        arrays, config = _run(draw, _EXACT_STEPS.get(draw.dtype.name, 1), 1, 4, 3, config)
        if arrays["X"].any(axis=(1, 2)).all():  # no step without inputs
            return arrays, config


def _sums(arrays: Mapping[str, Array], config: Config) -> dict[str, Array]:
    """The answer with n times the losses, which are whole numbers."""
    outputs = answer(arrays, config)
    n = config["accumulation"] * arrays["Y"].shape[1] * arrays["Y"].shape[2]
    return {**outputs, "losses": float(n) * outputs["losses"]}


CONTRACT = Contract(
    "train_steps",
    answer,
    {
        "sgd": lambda draw: _run(draw, 3, 4, 6, 5, {**lora(2, 3), **_optimizer("sgd", 0.125, 0.25, 1)}),
        "sgd-accumulated": lambda draw: _run(
            draw, 4, 3, 5, 7, {**lora(3, 2, use_rslora=True), **_optimizer("sgd", 0.25, 0.125, 2)}
        ),
        "adamw-accumulated": lambda draw: _run_adamw(
            draw, 4, 4, 6, 5, {**lora(2, 3), **_optimizer("adamw", 0.25, 0.5, 2)}
        ),
    },
    exact={"exact-sgd": _exact_sgd},
    proof=_sums,
    no_forward="train_steps has no values alone: every step needs the gradients",
)
