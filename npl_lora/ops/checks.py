"""Bad input is refused at the door, with one sentence: the argument's name, what was expected, what came.

The letters in shapes are the same everywhere: N tokens, B batch, T positions, H heads, G key/value heads, D head size,
S key positions, V vocabulary, r rank, in, out, C width, F inner width. "..." stands for any leading axes.
"""

import cmath
import math
import numbers
from functools import lru_cache
from typing import Any

import numpy as np

_KINDS = {
    "number": ("a floating or complex dtype", ("real floating", "complex floating")),
    "integer": ("an integer dtype", ("integral",)),
    "bool": ("a bool dtype", ("bool",)),
}


def check_inputs(**arguments: tuple[Any, ...]) -> tuple[Any, dict[str, Any]]:
    """Check arrays against shapes written in letters; return their namespace and the sizes of the letters.

    Each argument is (array, "out in") or (array, "...", "integer"); the kind is "number" unless given, and may end in
    "or None". A letter is bound where it first occurs and must agree after that: `A has shape (16, 8), expected
    (r, in) = (8, 16)`. None stands twice in one shape. A tuple in place of the letters is an exact shape, None any.
    """
    sizes: dict[str, Any] = {}
    namespace = None
    for name, (array, shape, *rest) in arguments.items():
        kind = rest[0] if rest else "number"
        if array is None and kind.endswith(" or None"):
            continue
        namespace = _namespace(name, array, namespace)
        _check_kind(name, array, namespace, kind.removesuffix(" or None"))
        if shape is not None:
            _check_shape(name, array, shape, sizes)
    return namespace, sizes


def _namespace(name: str, array: Any, seen: Any) -> Any:
    if not hasattr(array, "__array_namespace__"):
        raise TypeError(f"{name} is a {type(array).__name__}, expected an array")
    namespace = array.__array_namespace__()
    if seen is not None and namespace is not seen:
        raise TypeError(f"{name} is an array of {namespace.__name__}, expected one of {seen.__name__} like the others")
    return namespace


def _check_kind(name: str, array: Any, xp: Any, kind: str) -> None:
    if kind == "number" and array.dtype == object:  # Python integers, for exact checks
        return
    if not _is_kind(xp, array.dtype, kind):
        raise TypeError(f"{name} has dtype {array.dtype}, expected {_KINDS[kind][0]}")


@lru_cache(maxsize=64)  # asked for every array of every call, and slow
def _is_kind(xp: Any, dtype: Any, kind: str) -> bool:
    return bool(xp.isdtype(dtype, _KINDS[kind][1]))


def _check_shape(name: str, array: Any, shape: Any, sizes: dict[str, Any]) -> None:
    got = tuple(array.shape)
    if isinstance(shape, tuple):
        if got != shape:
            raise ValueError(f"{name} has shape {got}, expected {shape}")
        return
    letters, axes = _letters(shape)
    leading = len(got) - axes
    if leading >= 0 and axes < len(letters):
        got = (got[:leading], *got[leading:])
    bound = dict(zip(letters, got, strict=False))
    if len(got) != len(letters) or sizes | bound != bound | sizes:
        expected = f"({', '.join(letters)}) = {_known(letters, sizes)}"
        raise ValueError(f"{name} has shape {tuple(array.shape)}, expected {expected}")
    sizes |= bound


@lru_cache(maxsize=256)  # asked for every array of every call
def _letters(shape: str) -> tuple[tuple[str, ...], int]:
    """The letters, and how many are axes: all but a "...", which comes first."""
    letters = tuple(shape.split())
    return letters, len(letters) - letters.count("...")


def _known(letters: tuple[str, ...], sizes: dict[str, Any]) -> str:
    known = [", ".join(map(str, sizes[a])) if a == "..." and a in sizes else str(sizes.get(a, a)) for a in letters]
    shown = ", ".join(part for part in known if part)
    return f"({shown},)" if shown and "," not in shown else f"({shown})"


def check_number(name: str, value: Any) -> Any:
    """A Python number: a NumPy scalar would decide the dtype of what it multiplies. (Or, for exact checks, an object
    array of no dimension, which holds a number of another kind.)"""
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        if value.dtype == object and isinstance(value.item(), numbers.Number):
            return value
        value = value.item()
        value = float(value) if hasattr(value, "item") else value  # longdouble is its own Python number
    if isinstance(value, bool) or not isinstance(value, (int, float, complex)):
        raise TypeError(f"{name} is a {type(value).__name__}, expected a number")
    if not isinstance(value, int) and not cmath.isfinite(value):
        raise ValueError(f"{name} is {value}, expected a finite number")
    return value


def check_positive(name: str, value: Any) -> Any:
    """A real number > 0."""
    value = check_number(name, value)
    if isinstance(value, complex):
        raise TypeError(f"{name} is a complex, expected a real number")
    if value <= 0:
        raise ValueError(f"{name} is {value}, expected {name} > 0")
    return value


def check_integer(name: str, value: Any, at_least: int | None = None, below: int | None = None) -> int:
    """A Python integer in at_least <= value < below."""
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is a {type(value).__name__}, expected an integer")
    if (at_least is not None and value < at_least) or (below is not None and value >= below):
        low = "" if at_least is None else f"{at_least} <= "
        high = "" if below is None else f" < {below}"
        raise ValueError(f"{name} is {value}, expected {low}{name}{high}")
    return value


def check_choice(name: str, value: Any, choices: Any) -> Any:
    """One of a few names."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(map(repr, choices))}")
    return value


def check_ids(name: str, ids: Any, size: int, xp: Any) -> None:
    """Every entry in 0 <= id < size. A negative index would silently count from the end."""
    if math.prod(ids.shape) == 0:
        return
    low, high = int(xp.min(ids)), int(xp.max(ids))
    if low < 0 or high >= size:
        raise ValueError(f"{name} has values from {low} to {high}, expected 0 <= {name} < {size}")


def floating_dtype(dtype: Any) -> np.dtype:
    """The NumPy dtype; raises TypeError unless it is a real floating one."""
    dtype = np.dtype(dtype)
    if not np.issubdtype(dtype, np.floating):
        raise TypeError(f"dtype is {dtype}, expected a real floating one")
    return dtype
