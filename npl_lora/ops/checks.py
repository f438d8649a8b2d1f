"""Checks of arguments. Bad input is refused with one sentence: the argument's name, what was expected, what came.

    A has shape (16, 8), expected (r, in) = (8, 16)

The letters in shapes mean the same in every file: N tokens, B batch, T positions, S key positions, H heads, G key/value
heads, D head size, V vocabulary, K adapters, r rank, in and out the features of a linear layer, C the width of the
model, F the inner width of an MLP. "..." stands for any leading axes.
"""

import cmath
import math
import numbers
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np

_OBJECT = np.dtype(object)
_KINDS = {
    "number": ("a floating or complex dtype", ("real floating", "complex floating")),
    "integer": ("an integer dtype", ("integral",)),
    "bool": ("a bool dtype", ("bool",)),
}


def check_inputs(**arguments: tuple[Any, ...]) -> tuple[Any, dict[str, Any]]:
    """Check arrays against shapes written in letters; return their namespace and the size of each letter.

    Each argument is (array, shape) or (array, shape, kind), for example W=(W, "out in") or ids=(ids, "...", "integer").
    kind is "number" (the default), "integer" or "bool"; with " or None" at its end, the array may be None. A letter
    takes its size from the first array that has it, and every later array must agree. No letter stands twice in one
    shape. A tuple in place of the letters is an exact shape, and None allows any shape. Raises TypeError and
    ValueError, one sentence.
    """
    namespace, signature = None, []
    for name, (array, *expected) in arguments.items():
        if array is None and len(expected) > 1 and expected[1].endswith(" or None"):
            continue
        namespace = _namespace(name, array, namespace)
        signature.append((name, tuple(array.shape), array.dtype, *expected))
    return namespace, dict(_sizes(namespace, tuple(signature)))


@lru_cache(maxsize=4096)  # called for every call of every op
def _sizes(namespace: Any, signature: tuple[tuple[Any, ...], ...]) -> dict[str, Any]:
    """The size of each letter. signature: for each array its name, shape, dtype, the expected shape and the kind."""
    sizes: dict[str, Any] = {}
    for name, got, dtype, shape, *rest in signature:
        _check_kind(name, dtype, namespace, rest[0].removesuffix(" or None") if rest else "number")
        if shape is not None:
            _check_shape(name, got, shape, sizes)
    return sizes


def _namespace(name: str, array: Any, others: Any) -> Any:
    """The array's namespace, which must be that of the other arrays (None: there are none yet)."""
    try:
        namespace = array.__array_namespace__()
    except AttributeError:
        raise TypeError(f"{name} is {describe_type(array)}, expected an array") from None
    if others is not None and namespace is not others:
        expected = f"one of {others.__name__} like the others"
        raise TypeError(f"{name} is an array of {namespace.__name__}, expected {expected}")
    return namespace


def _check_kind(name: str, dtype: Any, xp: Any, kind: str) -> None:
    if kind == "number" and dtype is _OBJECT:  # Python integers, for exact checks
        return
    if not xp.isdtype(dtype, _KINDS[kind][1]):
        raise TypeError(f"{name} has dtype {dtype}, expected {_KINDS[kind][0]}")


def _check_shape(name: str, got: tuple[int, ...], shape: Any, sizes: dict[str, Any]) -> None:
    if isinstance(shape, tuple):
        if got != shape:
            raise ValueError(f"{name} has shape {got}, expected {shape}")
        return
    letters, axes = _letters(shape)
    leading = len(got) - axes
    entries: tuple[Any, ...] = got
    if leading >= 0 and axes < len(letters):
        entries = (got[:leading], *got[leading:])
    bound = dict(zip(letters, entries, strict=False))
    if len(entries) != len(letters) or sizes | bound != bound | sizes:
        raise ValueError(f"{name} has shape {got}, expected {_expected(letters, sizes)}")
    sizes |= bound


def _letters(shape: str) -> tuple[tuple[str, ...], int]:
    """The letters, and how many of them are axes: all but "...", which comes first."""
    letters = tuple(shape.split())
    return letters, len(letters) - letters.count("...")


def _expected(letters: tuple[str, ...], sizes: dict[str, Any]) -> str:
    """(r, in) = (8, 16): the letters, and the sizes where some are known."""
    known = [", ".join(map(str, sizes[a])) if a == "..." and a in sizes else str(sizes.get(a, a)) for a in letters]
    return _tuple(letters) if known == list(letters) else f"{_tuple(letters)} = {_tuple(known)}"


def _tuple(entries: Iterable[str]) -> str:
    text = ", ".join(entry for entry in entries if entry)
    return f"({text},)" if text and text != "..." and "," not in text else f"({text})"


def describe_type(value: Any) -> str:
    """None, a list, an int: the type of what came, for a sentence."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"an {name}" if name[0] in "aeiou" or name == "ndarray" else f"a {name}"


def check_number(name: str, value: Any) -> Any:
    """The value as a Python number. A NumPy scalar would decide the dtype of what it multiplies.

    For exact checks, an object array of no dimensions is let through: it holds a number of another kind.
    """
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        if value.dtype == object and isinstance(value.item(), numbers.Number):
            return value
        value = value.item()
        value = float(value) if hasattr(value, "item") else value  # longdouble is its own Python number
    if isinstance(value, bool) or not isinstance(value, (int, float, complex)):
        raise TypeError(f"{name} is {describe_type(value)}, expected a number")
    if not isinstance(value, int) and not cmath.isfinite(value):
        raise ValueError(f"{name} is {value}, expected a finite number")
    return value


def check_positive(name: str, value: Any) -> Any:
    """The value as a Python number, real and > 0."""
    value = check_number(name, value)
    if isinstance(value, complex):
        raise TypeError(f"{name} is a complex, expected a real number")
    if value <= 0:
        raise ValueError(f"{name} is {value}, expected {name} > 0")
    return value


def check_integer(name: str, value: Any, at_least: int | None = None, below: int | None = None) -> int:
    """The value as a Python integer, with at_least <= value < below."""
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {describe_type(value)}, expected an integer")
    if (at_least is not None and value < at_least) or (below is not None and value >= below):
        low = "" if at_least is None else f"{at_least} <= "
        high = "" if below is None else f" < {below}"
        raise ValueError(f"{name} is {value}, expected {low}{name}{high}")
    return value


def check_bool(name: str, value: Any) -> bool:
    """The value, which must be True or False: text would count as True."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} is {describe_type(value)}, expected a bool")
    return bool(value)


def check_choice(name: str, value: Any, choices: Any) -> Any:
    """The value, which must be one of these names."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(map(repr, choices))}")
    return value


def check_ids(name: str, ids: Any, size: int, xp: Any, least: int = 0) -> None:
    """Refuse ids outside least <= id < size. A negative index would silently count from the end."""
    if math.prod(ids.shape) == 0:
        return
    low, high = int(xp.min(ids)), int(xp.max(ids))
    if low < least or high >= size:
        raise ValueError(f"{name} has values from {low} to {high}, expected {least} <= {name} < {size}")


def floating_dtype(dtype: Any) -> np.dtype:
    """dtype as a NumPy dtype. Raises TypeError unless it is a real floating one."""
    dtype = np.dtype(dtype)
    if not np.issubdtype(dtype, np.floating):
        raise TypeError(f"dtype is {dtype}, expected a real floating one")
    return dtype
