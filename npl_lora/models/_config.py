"""Reading a config.json: what is missing or out of place is one sentence."""

import math
from collections.abc import Mapping
from typing import Any


class ModelError(ValueError):
    """A model that cannot be read, or whose files contradict each other. One sentence."""


def whole(found: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """A field that is a natural number."""
    value = found.get(name)
    value = default if value is None else value
    if type(value) is not int or value < 1:
        raise ModelError(f"config.json has {name} = {str(value)[:40]}, expected an integer of at least 1")
    return value


def number(found: Mapping[str, Any], name: str, default: float | None = None) -> float:
    """A field that is a number above 0."""
    value = found.get(name)
    value = default if value is None else value
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ModelError(f"config.json has {name} = {str(value)[:40]}, expected a number above 0")
    return float(value)


def field_of(found: Mapping[str, Any], name: str, default: str, known: tuple[str, ...]) -> str:
    """A field that is one of a few names."""
    value = found.get(name, default)
    if value not in known:
        raise ModelError(f"config.json has {name} = {str(value)[:40]!r}, expected one of {', '.join(known)}")
    return str(value)


def padding(found: Mapping[str, Any]) -> int | None:
    """The token whose row of the embedding is not trained."""
    value = found.get("pad_token_id")
    return value if type(value) is int and 0 <= value < whole(found, "vocab_size") else None
