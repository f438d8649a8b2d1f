"""Quote values and names from foreign files in a sentence: on one line, printable, and short."""

from typing import Any


def quote_value(value: Any, length: int = 60) -> str:
    """The value's repr on one line, cut to this length."""
    return _cut(" ".join(repr(value).split()), length)


def quote_name(name: str, length: int = 100) -> str:
    """The name if it is printable, else its repr; cut to this length."""
    return _cut(name if name.isprintable() else repr(name), length)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
