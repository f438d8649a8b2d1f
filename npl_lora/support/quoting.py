"""What a stranger's file says, as it may stand in a sentence: on one line, printable, and short."""

from typing import Any


def quote_value(value: Any, length: int = 60) -> str:
    """A value as Python writes it."""
    return _cut(" ".join(repr(value).split()), length)


def quote_name(name: str, length: int = 100) -> str:
    """A name as it is, where it is printable."""
    return _cut(name if name.isprintable() else repr(name), length)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
