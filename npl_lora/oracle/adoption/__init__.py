"""Adoption: a LoRA layer is checked as its author wrote it, without a line of glue.

    words           the names that people use, by role: a synonym is one word in a table
    constructor     a class's signature, by roles; config: an object that answers whatever is asked of it
    shapes          which tensor is W, A, B
    law             the scale as a law of alpha and r, by probing
    another_method  what is no LoRA, and no wrong layer for that
    fused           projections of q, k and v in one layer, as a case asks them; fused_groups: what each adds
    blocks          convolutions whose factors are matrices with the kernel in both
    sibling         the low-rank path that a wrapper is handed: a class beside it
    layer           the layer with all of this; answers: what it answers to the cases of each contract
    facts           what holds besides numbers: the start, what is trained and saved, what a call leaves as it was
    framework       what a framework must offer; torch_layers and its like: one file each
    array_functions functions of named arrays that return y alone
    models          torch layers that stand in a model, which capture records; standing, standing_scale: one of them

A convention is a scale that is proportional to its parameter, or the same always, without being alpha / r. A parameter
that has no effect, or another one than a multiple, is a fault.
"""

import importlib
import sys
from collections.abc import Callable
from typing import Any

from .adoption import Adoption
from .another_method import refuse_another_method
from .answers import Function, functions
from .array_functions import adopt_function, takes_arrays
from .constructor import Constructor
from .facts import Asked, facts
from .framework import Framework
from .kinds import EMBEDDING, LINEAR, kind_of
from .layer import Layer
from .merging import find_merging
from .other_states import states as states_outside_torch
from .sentences import conventions, found, scale_fact
from .wanted import PROBE, NotAdoptedError

__all__ = ["FRAMEWORKS", "Adoption", "NotAdoptedError", "adopt", "is_layer", "is_lora_layer", "takes_arrays"]

# {module: name of the class that all its layers have as a base, the file here, and what that offers}. Nothing of a
# framework is imported that is not loaded.
_FRAMEWORKS = {
    "keras": ("Layer", "keras_layers", "KerasLayers"),
    "torch": ("Module", "torch_layers", "TorchLayers"),
    "mlx": ("Module", "mlx_layers", "MLXLayers"),
    "flax.linen": ("Module", "flax_linen_layers", "LinenLayers"),
    "flax.nnx": ("Module", "flax_nnx_layers", "NNXLayers"),
    "equinox": ("Module", "equinox_layers", "EquinoxLayers"),
}
FRAMEWORKS = tuple(dict.fromkeys(home.partition(".")[0] for home in _FRAMEWORKS))
_SIZED_BY_X = ("keras", "flax.linen")  # a layer may learn the size of its input from its first call


def is_layer(thing: Any) -> bool:
    """Whether this is a framework's layer, or a class of such."""
    return _home(thing) is not None


def is_lora_layer(kind: type) -> bool:
    """Whether this is a class of layers whose constructor takes what a LoRA layer needs."""
    home, constructor = _home(kind), Constructor(kind, {})
    takes_a_width = home in _SIZED_BY_X and constructor.has("out") and constructor.has("rank")
    return home is not None and (constructor.builds_a_layer or (takes_a_width and not constructor.unknown))


def adopt(thing: Any) -> tuple[dict[str, Function], Adoption] | None:
    """The functions of a layer by contract, and what is said of it. None if this is no layer of a known framework, nor
    a function that builds one, nor one of named arrays. Raises NotAdoptedError."""
    if takes_arrays(thing):
        return adopt_function(thing)
    home = _home(thing) or _home_of_build(thing)
    if home is None:
        return None
    framework = _framework(home)
    constructor = Constructor(thing if callable(thing) and not is_instance(thing) else type(thing), framework.parts)
    if not is_layer(thing) and not constructor.builds_a_layer:
        return None
    kind = kind_of(constructor)
    if home != "torch" and kind not in (LINEAR, EMBEDDING):
        raise NotAdoptedError(f"its kind is {kind.name}, which is adopted of torch alone")
    layer = Layer(framework, constructor)
    refuse_another_method(layer)
    scales = layer.law.slope if not layer.law.parameter else None
    said = (*scale_fact(layer.law), *facts(layer, _more_facts(layer)))
    merging = find_merging(layer)
    without = {"lora_merge": ("W_unmerged",)} if merging is not None and not merging.unmerge else {}
    how = layer.law.exact, constructor.square_only or layer.square_groups, kind.groups
    return functions(layer), Adoption(found(layer), conventions(layer), scales, said, without, *how)


def is_instance(thing: Any) -> bool:
    """Whether this is a layer and no class."""
    return not isinstance(thing, type) and is_layer(thing)


def _home(thing: Any) -> str | None:
    """The framework that a layer, or its class, belongs to: a key of _FRAMEWORKS."""
    kind = thing if isinstance(thing, type) else type(thing)
    for base in kind.__mro__:  # the nearest decides: a Keras layer may be a torch module too
        for home, (name, _, _) in _FRAMEWORKS.items():
            if base.__name__ == name and f"{base.__module__}.".startswith(f"{home}."):
                return home
    return None


def _home_of_build(call: Any) -> str | None:
    """The framework of the layer that a function builds: the loaded one whose parts make it build one."""
    loaded = [home for home in _FRAMEWORKS if home in sys.modules]
    constructor = Constructor(call, {}) if callable(call) else None
    if constructor is None or not constructor.builds_a_layer or (constructor.has("weight") and constructor.has("A")):
        return None  # of W, A and B alone it is a merge, and no layer's
    return next((home for home in loaded if _builds(call, home)), "torch" if "torch" in loaded else None)


def _more_facts(layer: Layer) -> dict[str, Asked]:
    """What only layers of this framework are asked."""
    if layer.framework.name != "torch":
        return states_outside_torch(layer)
    from .torch_states import states

    return states(layer)


def _builds(call: Callable[..., Any], home: str) -> bool:
    try:
        return _home(Constructor(call, _framework(home).parts).build(PROBE)) == home
    except Exception:  # a stranger's function, perhaps with another framework's parts
        return False


def _framework(home: str) -> Framework:
    _, room, offered = _FRAMEWORKS[home]
    framework: Framework = getattr(importlib.import_module(f".{room}", __name__), offered)()
    return framework
