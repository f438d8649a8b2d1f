"""What an adopted layer answers to the cases of each contract."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ..case import Case
from ..one_line import describe
from .facts import starts_as_handed
from .framework import Pass
from .initial import distribution_of, left_to_the_caller
from .kinds import CONV2D, EMBEDDING
from .layer import Layer
from .merging import Merging, find_merging, weight_after
from .refusal import refusal
from .training import stay_within_float16
from .wanted import Wanted

Outputs = dict[str, Any]
Function = Callable[[Case], Outputs]


def functions(layer: Layer) -> dict[str, Function]:
    """{contract: the function that answers it}, for what the layer has."""
    asked: dict[str, Callable[[Layer, Case], Outputs]] = {layer.contract: one_pass}
    if layer.contract == "lora_linear" and not layer.kind.groups:  # whose factors are trained by group
        asked["train_steps"] = train_steps
    draws = not layer.constructor.has("A") and layer.kind is not CONV2D and not layer.kind.groups
    if draws and distribution_of(layer) and not starts_as_handed(layer) and not left_to_the_caller(layer):
        asked["lora_init"] = lora_init
    if (merging := find_merging(layer)) is not None:
        asked["lora_merge"] = partial(lora_merge, merging)
    sets_dropout = layer.dropout_place and not layer.own_dropout and not layer.kind.groups
    if sets_dropout and layer.contract in ("lora_linear", "lora_embedding"):  # the contract has no m, no kernel
        asked["lora_dropout"] = lora_dropout
    return {name: partial(_unless_refused, answer, layer) for name, answer in asked.items()}


def _unless_refused(answer: Callable[[Layer, Case], Outputs], layer: Layer, case: Case) -> Outputs:
    """The answer. What the layer refuses by an error of its own is not supported, and no fault."""
    try:
        return answer(layer, case)
    except Exception as error:  # whatever a stranger's layer raises
        if refused := refusal(error):
            raise NotImplementedError(f"refuses it: {refused}") from None
        raise


def one_pass(layer: Layer, case: Case) -> Outputs:
    """y, dx where x is no ids, dA, dB, and dm of DoRA: lora_linear, lora_embedding, lora_conv2d, dora_linear."""
    mask = case.arrays.get("mask")
    if mask is not None:
        _needs_dropout_on_x(layer)
    filled = layer.filled(layer.wanted_for(case, 0.0 if mask is None else 0.5), case.arrays, case.dtype)
    if _input(case) == "x" and case["x"].ndim == 1:
        _needs_one_axis(layer, filled, case)
    what = Pass(case[_input(case)], case["dy"], _trained(layer), mask)
    outputs = _differentiated(layer, filled, what, case)
    return {**outputs, **{name: outputs[name].reshape(case[name[1:]].shape) for name in what.wrt}}


def train_steps(layer: Layer, case: Case) -> Outputs:
    """losses, A_after, B_after, W_after: the framework's own optimiser steps on A and B."""
    if not stay_within_float16(case):
        raise NotImplementedError("its own scale takes the steps out of float16")
    filled = layer.filled(layer.wanted_for(case), case.arrays, case.dtype)
    roles, framework = layer.roles, layer.framework
    there = framework.tensors(filled)
    fixed = [held for held in (roles.A, roles.B) if there[held.path].kind != "plain" and not there[held.path].trained]
    if fixed:  # of tensors that no optimiser knows, the steps show it
        raise NotImplementedError("trains one factor alone" if len(fixed) == 1 else "trains neither factor by itself")
    assert roles.W is not None
    losses = framework.train(filled, case, (roles.A.path, roles.B.path))
    held = {"A_after": roles.A, "B_after": roles.B, "W_after": roles.W}
    after = {name: framework.read(filled, one.path) for name, one in held.items()}
    return {"losses": losses, **_turned(after, {name: one.transposed for name, one in held.items()})}


def lora_merge(merging: Merging, layer: Layer, case: Case) -> Outputs:
    """W_merged, and W_unmerged where the layer can."""
    turned = case.config["fan_in_fan_out"]
    if turned and not layer.constructor.has("transposed"):
        raise NotImplementedError("has no fan_in_fan_out")
    wanted = layer.wanted_for(case).but(transposed=turned)
    if turned:
        _needs_a_turned_base(layer, wanted)
    filled = layer.filled(wanted, case.arrays, case.dtype)
    outputs = {"W_merged": weight_after(layer, merging.merged(layer, filled), turned)}
    if merging.unmerge:
        merging.undo(filled)
        outputs["W_unmerged"] = weight_after(layer, filled, turned)
    return outputs


def lora_init(layer: Layer, case: Case) -> Outputs:
    """A and B of a new layer."""
    _of_its_kind(layer, case)
    (out, in_), rank = case["W"].shape[:: -1 if layer.kind is EMBEDDING else 1], case.config["r"]
    wanted = layer.probe.but(in_=in_, out=out, rank=rank, strength=float(case.config["alpha"]))
    if distribution_of(layer) != case.config["distribution"]:
        raise NotImplementedError("its A starts from another distribution")
    fresh = layer.framework.cast(layer.build(wanted.but(bias=not layer.takes_no_bias)), case.dtype)
    held = {"A": layer.roles.A, "B": layer.roles.B}
    start = {name: layer.framework.read(fresh, one.path) for name, one in held.items()}
    return _turned(start, {name: one.transposed for name, one in held.items()})


def lora_dropout(layer: Layer, case: Case) -> Outputs:
    """y, y_again, y_eval and the gradients, with the layer's own dropout."""
    _of_its_kind(layer, case)
    _needs_dropout_on_x(layer)
    filled = layer.filled(layer.wanted_for(case, case.config["p"]), case.arrays, case.dtype)
    x = case[_input(case)]
    outputs = _differentiated(layer, filled, Pass(x, case["dy"], _trained(layer), own_dropout=True), case)
    y_again = layer.framework.value(filled, x, own_dropout=True)
    return {**outputs, "y_again": y_again, "y_eval": layer.framework.evaluate(filled, x)}


def _input(case: Case) -> str:
    return "ids" if "ids" in case else "x"


def _trained(layer: Layer) -> dict[str, str]:
    """{gradient: path}."""
    m = {} if layer.roles.m is None else {"dm": layer.roles.m}
    return {"dA": layer.roles.A.path, "dB": layer.roles.B.path, **m}


def _differentiated(layer: Layer, filled: Any, what: Pass, case: Case) -> Outputs:
    outputs = layer.framework.differentiate(filled, what)
    held = {"dA": layer.roles.A, "dB": layer.roles.B}
    of_factors = {name: one.gradient(outputs[name], len(case[name[1:]])) for name, one in held.items()}
    return {**outputs, **of_factors}


def _turned(outputs: Outputs, transposed: Mapping[str, bool]) -> Outputs:
    """The outputs, with those transposed that the layer stores so."""
    return {name: value.T if transposed.get(name) else value for name, value in outputs.items()}


def _needs_a_turned_base(layer: Layer, wanted: Wanted) -> None:
    """With fan_in_fan_out a layer is handed GPT-2's base, which has no in_features."""
    try:
        layer.build(wanted)
    except Exception as error:  # whatever a stranger's constructor raises
        raise NotImplementedError(f"takes no base whose weight is (in, out): {describe(error)}") from None


def _needs_one_axis(layer: Layer, filled: Any, case: Case) -> None:
    """Some layers take batches alone, and nobody misses a single token."""
    try:
        layer.framework.value(filled, case["x"])
    except Exception as error:  # whatever a stranger's forward raises
        raise NotImplementedError(f"takes no x of one axis: {describe(error)}") from None


def _needs_dropout_on_x(layer: Layer) -> None:
    place = layer.dropout_place
    reasons = {"": "has no dropout", "elsewhere": "no dropout mask can be handed to it"}
    if place != "x":
        raise NotImplementedError(reasons.get(place, f"dropout acts {place}, not on x"))


def _of_its_kind(layer: Layer, case: Case) -> None:
    if (case.config["layer"] == "embedding") != (layer.kind is EMBEDDING):
        raise NotImplementedError(f"is no {case.config['layer']}" + " layer" * (layer.kind is EMBEDDING))
