"""What an adopted layer answers to the cases of each contract."""

from collections.abc import Callable, Mapping
from typing import Any

from ..case import Case
from .framework import Pass
from .layer import Layer

Outputs = dict[str, Any]
Function = Callable[[Case], Outputs]


def functions(layer: Layer) -> dict[str, Function]:
    """{contract: the function that answers it}, for what the layer has."""
    return {"lora_linear": lambda case: lora_linear(layer, case)}


def lora_linear(layer: Layer, case: Case) -> Outputs:
    """y, dx, dA, dB."""
    mask = case.arrays.get("mask")
    if mask is not None:
        _needs_dropout_on_x(layer)
    filled = layer.filled(layer.wanted_for(case, 0.0 if mask is None else 0.5), case.arrays, case.dtype)
    A, B = layer.roles.A, layer.roles.B
    outputs = layer.framework.differentiate(filled, Pass(case["x"], case["dy"], {"dA": A.path, "dB": B.path}, mask))
    return _turned(outputs, {"dA": A.transposed, "dB": B.transposed})


def _turned(outputs: Outputs, transposed: Mapping[str, bool]) -> Outputs:
    """The outputs, with those transposed that the layer stores so."""
    return {name: value.T if transposed.get(name) else value for name, value in outputs.items()}


def _needs_dropout_on_x(layer: Layer) -> None:
    if not layer.dropout_place:
        raise NotImplementedError("has no dropout")
    if layer.dropout_place != "x":
        raise NotImplementedError(f"dropout acts on {layer.dropout_place}, not on x")
