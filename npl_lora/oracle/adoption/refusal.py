"""Whether an error is a refusal: the layer's own code raised it on purpose."""

import linecache
import traceback

from ..one_line import describe


def refusal(error: BaseException) -> str:
    """The error in a line if the statement that raised it is a raise or an assert; else ""."""
    last = list(traceback.walk_tb(error.__traceback__))[-1:]
    for frame, line in last:
        statement = linecache.getline(frame.f_code.co_filename, line).strip()
        if statement.startswith(("raise ", "assert ")) and "torch" not in frame.f_code.co_filename.split("/"):
            return describe(error)
    return ""
