"""Reports as text, as the command line prints them."""

import io
from collections.abc import Iterable

from ..oracle import Report
from ._screen import Screen


def as_text(reports: Iterable[Report], not_checked: Iterable[str] = ()) -> str:
    """What `npl-lora check` prints of these reports, and of what was not checked, without colours."""
    out = io.StringIO()
    screen = Screen(out=out)
    for report in reports:
        screen.show(report)
    screen.print_not_checked(list(not_checked))
    return out.getvalue().rstrip()
