"""Adoption: a LoRA layer is checked as its author wrote it, without a line of glue.

    words           the names that people use, by role: a synonym is one word in a table
    constructor     a class's signature, by roles; config: an object that answers whatever is asked of it
    shapes          which tensor is W, A, B
    law             the scale as a law of alpha and r, by probing
    layer           the layer with all of this; answers: what it answers to the cases of each contract
    facts           what holds besides numbers: the start, what is trained and saved, what a call leaves as it was
    framework       what a framework must offer; torch_layers and its like: one file each

A convention is a scale that is proportional to its parameter, or the same always, without being alpha / r. A parameter
that has no effect, or another one than a multiple, is a fault.
"""

import sys
from typing import Any

from .adoption import Adoption
from .answers import Function, functions
from .constructor import Constructor
from .facts import Asked, facts
from .framework import Framework
from .layer import Layer
from .merging import find_merging
from .sentences import convention, found, scale_fact
from .wanted import NotAdoptedError

__all__ = ["Adoption", "NotAdoptedError", "adopt", "is_layer", "is_lora_layer"]


def is_layer(thing: Any) -> bool:
    """Whether this is a framework's layer, or a class of such."""
    return _framework(thing) is not None


def is_lora_layer(kind: type) -> bool:
    """Whether this is a class of layers whose constructor takes what a LoRA layer needs."""
    framework = _framework(kind)
    return framework is not None and Constructor(kind, framework.parts).builds_a_layer


def adopt(thing: Any) -> tuple[dict[str, Function], Adoption] | None:
    """The functions of a layer by contract, and what is said of it. None if this is no layer of a known framework, nor
    a function that builds one. Raises NotAdoptedError."""
    framework = _framework(thing) or _framework_loaded()
    if framework is None:
        return None
    constructor = Constructor(thing if callable(thing) and not is_instance(thing) else type(thing), framework.parts)
    if not is_layer(thing) and not constructor.builds_a_layer:
        return None
    layer = Layer(framework, constructor)
    scales = layer.law.slope if not layer.law.parameter else None
    said = (*scale_fact(layer.law), *facts(layer, _more_facts(layer)))
    merging = find_merging(layer)
    without = {"lora_merge": ("W_unmerged",)} if merging is not None and not merging.unmerge else {}
    return functions(layer), Adoption(found(layer), convention(layer.law), scales, said, without, layer.law.exact)


def is_instance(thing: Any) -> bool:
    """Whether this is a layer and no class."""
    return not isinstance(thing, type) and _framework(thing) is not None


def _framework(thing: Any) -> Framework | None:
    """The framework that a layer, or its class, belongs to. Nothing is imported that is not loaded."""
    kind = thing if isinstance(thing, type) else type(thing)
    names = {base.__module__.partition(".")[0] for base in kind.__mro__ if base.__name__ == "Module"}
    return _torch() if "torch" in names else None


def _framework_loaded() -> Framework | None:
    return _torch() if "torch" in sys.modules else None


def _more_facts(layer: Layer) -> dict[str, Asked]:
    """What only layers of this framework are asked."""
    if layer.framework.name != "torch":
        return {}
    from .torch_states import states

    return states(layer)


def _torch() -> Framework:
    from .torch_layers import TorchLayers

    return TorchLayers()
