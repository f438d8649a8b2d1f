"""Makes one line of a report from any text, such as a stranger's error message."""

import re

_LENGTH = 300
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")  # and every other control sequence of a terminal


def first_line(text: str) -> str:
    """The first line that is not empty, or ""."""
    return next(iter(_lines(text)), "")


def last_line(text: str) -> str:
    """The last line that is not empty, or ""."""
    return next(reversed(_lines(text)), "")


def describe(error: BaseException) -> str:
    """An exception: its type and the first line of its message."""
    try:
        message = first_line(str(error))
    except Exception:  # __str__ is a stranger's code too
        message = ""
    return f"{type(error).__name__}: {message or 'no message'}"


def _lines(text: str) -> list[str]:
    lines = (_clean(line) for line in text.splitlines())
    return [line for line in lines if line]


def _clean(line: str) -> str:
    printable = "".join(c if c.isprintable() else " " for c in _COLOUR.sub("", line)).strip()
    return printable if len(printable) <= _LENGTH else printable[:_LENGTH] + "…"
