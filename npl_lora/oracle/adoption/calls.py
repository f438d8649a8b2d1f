"""What a layer's call is handed besides its input, by the names of its parameters."""

import inspect
from collections.abc import Callable
from typing import Any

from ..one_line import describe
from .wanted import NotAdoptedError, Wanted
from .words import EVALUATION, TRAINING, plain, role_of


def more(call: Callable[..., Any], training: bool, key: Any = None) -> dict[str, Any]:
    """{parameter: value}: the mode, and a key if the framework has them, wherever they are taken; a strength of 1
    where one is needed. Raises NotAdoptedError for another that is needed."""
    found: dict[str, Any] = {}
    for p in list(inspect.signature(call).parameters.values())[1:]:
        name, role, needed = plain(p.name), role_of(p.name), p.default is p.empty
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            continue
        if name in TRAINING:
            found[p.name] = training
        elif name in EVALUATION:
            found[p.name] = not training
        elif role == "key" and key is not None:
            found[p.name] = key
        elif needed and role in ("scale", "alpha"):
            found[p.name] = 1.0
        elif needed:
            raise NotAdoptedError(f"its call needs {p.name}, which no rule knows")
    return found


def first(y: Any, kind: type) -> Any:
    """y; the only one of a tuple. Raises TypeError unless it is an array of this kind."""
    y = only_array(y, kind)
    if not isinstance(y, kind):
        raise TypeError(f"its call returned {'None' if y is None else 'a ' + type(y).__name__}, expected an array")
    return y


def no_padding_idx(wanted: Wanted) -> None:
    """Raises NotImplementedError if an embedding is wanted whose padding gets no gradient: torch alone has that."""
    if wanted.padding_idx is not None:
        raise NotImplementedError("has no padding_idx")


def only_array(y: Any, kind: type) -> Any:
    """The first of a tuple, where the others are no arrays. Raises NotAdoptedError for several: any could be y."""
    if not isinstance(y, tuple) or not y:
        return y
    several = sum(isinstance(one, kind) for one in y)
    if several > 1:
        raise NotAdoptedError(f"its call returns a tuple of {several} arrays, expected one. Write a layer around it")
    return y[0]


def first_call_raised(error: Exception, wanted: Wanted) -> str:
    """Why a layer that is built by its first call cannot be had."""
    sizes = f"in = {wanted.in_}, out = {wanted.out}, r = {wanted.rank}"
    return f"its first call, at {sizes}, raised {describe(error)}"
