"""Names that are one slip away from another: what somebody meant, and nobody would ask."""

import inspect
import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from types import FunctionType, ModuleType
from typing import Any

from . import CONTRACTS

_CLOSE = 0.85  # lora_liner is 0.95 of lora_linear, lora_lniear 0.91; lora_linear_fp8, on purpose another, 0.846


def meant(name: str, names: Iterable[str]) -> str:
    """Which of these names was meant by one that is none of them; "" if it is one, or like none.

    A name that differs by a number, as lora_conv1d does, is no slip.
    """
    names = tuple(names)
    close = get_close_matches(name, names, n=1, cutoff=_CLOSE) if name not in names else []
    return "".join(one for one in close if _without_digits(one) != _without_digits(name))


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The question after a sentence: "; did you mean lora_linear?", or ""."""
    close = meant(name, names)
    return f"; did you mean {close}?" if close else ""


def misspelt(source: Any, there: Iterable[str] = (), parameter: str = "") -> list[str]:
    """A sentence on each public function of a module or an object that takes one argument and whose name is almost a
    contract's that is not there. parameter: what the argument must be called; anything if empty."""
    there = tuple(there)
    sentences = []
    for name, function in _functions(source):
        close = "" if name.startswith("_") else meant(name, CONTRACTS)
        if close and close not in there and _takes_one(function, parameter):
            sentences.append(f"{name} is no contract; did you mean {close}?")
    return sentences


def _functions(source: Any) -> list[tuple[str, Callable[..., Any]]]:
    """Those that are defined in a module, or the methods of an object. Runs none of their code."""
    if isinstance(source, ModuleType):
        own = vars(source).items()
        return [(n, f) for n, f in own if inspect.isfunction(f) and f.__module__ == source.__name__]
    held: dict[str, Any] = {}
    for kind in reversed(type(source).__mro__):
        held |= vars(kind)
    held |= getattr(source, "__dict__", {})
    methods = (name for name, value in held.items() if isinstance(value, (FunctionType, staticmethod, classmethod)))
    return [(name, getattr(source, name)) for name in methods if not name.startswith("_")]


def _takes_one(function: Callable[..., Any], parameter: str) -> bool:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # no signature can be read
        return False
    needed = [p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(needed) == 1 and parameter in ("", needed[0].name)


def _without_digits(name: str) -> str:
    return re.sub(r"\d", "", name)
