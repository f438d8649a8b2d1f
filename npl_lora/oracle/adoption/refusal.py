"""Whether an error is a refusal: the layer's own code raised it on purpose."""

import linecache
import traceback

from ..one_line import OTHERS, describe

_REFUSALS = (ValueError, TypeError, RuntimeError, AssertionError)


def refusal(error: BaseException) -> str:
    """The error in a line if the statement that raised it is a raise or an assert; else ""."""
    if not isinstance(error, _REFUSALS):
        return ""
    last = list(traceback.walk_tb(error.__traceback__))[-1:]
    for frame, line in last:
        statement = linecache.getline(frame.f_code.co_filename, line).strip()
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if statement.startswith(("raise ", "assert ")) and package not in OTHERS:
            return describe(error)
    return ""
