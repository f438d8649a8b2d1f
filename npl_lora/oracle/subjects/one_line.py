"""Whatever somebody's code has to say, as one line of a report."""

import re

_LENGTH = 300
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")  # and whatever else a terminal would obey


def first_line(text: str) -> str:
    """The first line that is not empty, or nothing."""
    return next(iter(_lines(text)), "")


def last_line(text: str) -> str:
    """The last line that is not empty, or nothing."""
    return next(reversed(_lines(text)), "")


def describe(error: BaseException) -> str:
    """An exception: its type, and what it says first."""
    try:
        message = first_line(str(error))
    except Exception:  # its __str__ is somebody's code, too
        message = ""
    return f"{type(error).__name__}: {message or 'no message'}"


def _lines(text: str) -> list[str]:
    lines = (_clean(line) for line in text.splitlines())
    return [line for line in lines if line]


def _clean(line: str) -> str:
    printable = "".join(c if c.isprintable() else " " for c in _COLOUR.sub("", line)).strip()
    return printable if len(printable) <= _LENGTH else printable[:_LENGTH] + "…"
