"""Read the fields of a config.json. Each error is one sentence that names the field."""

from collections.abc import Mapping
from typing import Any

from ..support.quoting import quote_value

MOST = 1 << 16  # the most layers, heads and features of a head: something is allocated for each of them


class ModelError(ValueError):
    """A model that cannot be read, or whose files contradict each other. The message is one sentence."""


def read_integer(
    fields: Mapping[str, Any], name: str, default: int | None = None, *, least: int = 1, most: int = 1 << 31
) -> int:
    """An integer from least to most. Raises ModelError."""
    value = fields.get(name)
    value = default if value is None else value
    if type(value) is not int or value < least:
        raise ModelError(f"config.json has {name} = {quote_value(value)}, expected an integer of at least {least}")
    if value > most:
        raise ModelError(f"config.json has {name} = {quote_value(value)}, expected at most {most:,}")
    return value


def read_number(fields: Mapping[str, Any], name: str, default: float | None = None) -> float:
    """A number between 1e-30 and 1e30. Raises ModelError."""
    value = fields.get(name)
    value = default if value is None else value
    if not isinstance(value, int | float) or isinstance(value, bool) or not 1e-30 < value < 1e30:
        raise ModelError(f"config.json has {name} = {quote_value(value)}, expected a number above 0 and below 1e30")
    return float(value)


def read_choice(fields: Mapping[str, Any], name: str, default: str, choices: tuple[str, ...]) -> str:
    """One of a few strings. Raises ModelError."""
    value = fields.get(name, default)
    if not isinstance(value, str) or value not in choices:
        raise ModelError(f"config.json has {name} = {quote_value(value)}, expected one of {', '.join(choices)}")
    return value


def read_padding(fields: Mapping[str, Any]) -> int | None:
    """The padding token, whose row of the embedding is not trained; None if there is none."""
    value = fields.get("pad_token_id")
    return value if type(value) is int and 0 <= value < read_integer(fields, "vocab_size") else None
