"""Reports as text, as the command line prints them."""

import io
from collections.abc import Iterable

from ..oracle import Report
from ._screen import Screen


def as_text(reports: Iterable[Report]) -> str:
    """What `npl-lora check` prints of these reports, without colours."""
    out = io.StringIO()
    screen = Screen(out=out)
    for report in reports:
        screen.show(report)
    return out.getvalue().rstrip()
