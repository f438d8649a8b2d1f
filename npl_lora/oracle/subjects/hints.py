"""What to check instead of a target that has nothing to ask: a sentence on what it does have."""

import inspect
from types import FunctionType, ModuleType
from typing import Any

from ..adoption import FRAMEWORKS, is_layer, takes_arrays
from . import CONTRACTS

_SHOWN = 8  # names


def hint(source: Any, target: str) -> str:
    """The objects of a module that answer cases, and its functions of arrays; else its classes, which are no layers;
    else the names that it has. Of a class, what it needs. "" if there is nothing to say."""
    if isinstance(source, type):
        return no_layer([source])
    if not isinstance(source, ModuleType):
        return ""
    own = {name: value for name, value in vars(source).items() if not name.startswith("_") and _is_own(value, source)}
    answering = [name for name, value in own.items() if offers_cases(value)]
    there = [name for name in answering if not isinstance(own[name], type)] or answering
    there += [name for name, value in own.items() if isinstance(value, FunctionType) and takes_arrays(value)]
    if there:
        return f"check {' or '.join(f'{target}:{name}' for name in there[:_SHOWN])}"
    classes = no_layer([value for value in own.values() if isinstance(value, type)])
    return classes or (f"it has {_listed(list(own))}" if own else "")


def no_layer(classes: list[type]) -> str:
    """What classes need that nobody can adopt. "" if there are none, or if a framework's are among them."""
    if not classes or any(map(is_layer, classes)):
        return ""
    names, known = _listed([kind.__name__ for kind in classes]), ", ".join(FRAMEWORKS)
    needs = "such a class needs functions of a case that use it, each named after a contract"
    return f"no layer of a framework that is known here ({known}): {names}; {needs}"


def offers_cases(source: Any) -> bool:
    """Whether a class or object has a function named after a contract. Runs none of its code."""
    return any(inspect.getattr_static(source, name, None) is not None for name in CONTRACTS)


def _is_own(value: Any, module: ModuleType) -> bool:
    """Whether it is no module, and if it is a class or function, none of another package's."""
    home = getattr(value, "__module__", None) if isinstance(value, (type, FunctionType)) else module.__name__
    root = module.__name__.partition(".")[0]
    return not isinstance(value, ModuleType) and f"{home}.".startswith(f"{root}.")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN] + ["…"] * (len(names) > _SHOWN))
