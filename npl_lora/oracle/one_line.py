"""Makes one line of a report from any text, such as a stranger's error message."""

import linecache
import os
import re
import traceback

# Packages whose frames tell nobody where his own mistake is.
OTHERS = ("npl_lora", "numpy", "torch", "jax", "jaxlib", "flax", "keras", "mlx", "equinox")
_PYTHON = os.path.dirname(os.__file__)

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
    return f"{type(error).__name__}: {message or _asserted(error) or 'no message'}"


def _asserted(error: BaseException) -> str:
    """The statement that a bare assert stands in; "" for another error."""
    last = list(traceback.walk_tb(error.__traceback__))[-1:]
    statements = [linecache.getline(frame.f_code.co_filename, line) for frame, line in last]
    return first_line(statements[0]) if statements and isinstance(error, AssertionError) else ""


def describe_with_place(error: BaseException) -> str:
    """The same, with " ..." where the message has more lines, and the last place that is in nobody else's package:
    KeyError: 'dY' at mine.py:21."""
    try:
        more = " ..." if len(_lines(str(error))) > 1 else ""
    except Exception:  # __str__ is a stranger's code too
        more = ""
    places = [f" at {os.path.basename(file)}:{line}" for file, line in _own_places(error)]
    return f"{describe(error)}{more}{''.join(places[-1:])}"


def _own_places(error: BaseException) -> list[tuple[str, int]]:
    """The file and line of each frame that is the user's, the innermost last."""
    places = []
    for frame, line in traceback.walk_tb(error.__traceback__):
        file, package = frame.f_code.co_filename, str(frame.f_globals.get("__name__", "")).partition(".")[0]
        of_python = file.startswith(_PYTHON) and "-packages" not in file
        if package not in OTHERS and not of_python and not file.startswith("<"):
            places.append((file, line))
    return places


def _lines(text: str) -> list[str]:
    lines = (_clean(line) for line in text.splitlines())
    return [line for line in lines if line]


def _clean(line: str) -> str:
    printable = "".join(c if c.isprintable() else " " for c in _COLOUR.sub("", line)).strip()
    return printable if len(printable) <= _LENGTH else printable[:_LENGTH] + "…"
