"""Reading a config.json: what is missing or out of place is one sentence."""

from collections.abc import Mapping
from typing import Any

from ..support.quoting import quote_value

MOST = 1 << 16  # layers, heads, and numbers in a head: what is made for each of them must fit in memory


class ModelError(ValueError):
    """A model that cannot be read, or whose files contradict each other. One sentence."""


def whole(
    found: Mapping[str, Any], name: str, default: int | None = None, *, least: int = 1, most: int = 1 << 31
) -> int:
    """A field that is a natural number."""
    value = found.get(name)
    value = default if value is None else value
    if type(value) is not int or value < least:
        raise ModelError(f"config.json has {name} = {quote_value(value)}, expected an integer of at least {least}")
    if value > most:
        raise ModelError(f"config.json has {name} = {quote_value(value)}, expected at most {most:,}")
    return value


def number(found: Mapping[str, Any], name: str, default: float | None = None) -> float:
    """A field that is a number above 0, of a size that can be computed with."""
    value = found.get(name)
    value = default if value is None else value
    if not isinstance(value, int | float) or isinstance(value, bool) or not 1e-30 < value < 1e30:
        raise ModelError(f"config.json has {name} = {quote_value(value)}, expected a number above 0 and below 1e30")
    return float(value)


def field_of(found: Mapping[str, Any], name: str, default: str, known: tuple[str, ...]) -> str:
    """A field that is one of a few names."""
    value = found.get(name, default)
    if not isinstance(value, str) or value not in known:
        raise ModelError(f"config.json has {name} = {quote_value(value)}, expected one of {', '.join(known)}")
    return value


def padding(found: Mapping[str, Any]) -> int | None:
    """The token whose row of the embedding is not trained."""
    value = found.get("pad_token_id")
    return value if type(value) is int and 0 <= value < whole(found, "vocab_size") else None
