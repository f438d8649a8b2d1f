"""What commands write and return: files, and the exit status of a verdict."""

import json
from collections.abc import Sequence
from pathlib import Path

from ..oracle import Report, overall
from ._errors import command_errors

EXIT_STATUS = {"pass": 0, "convention": 0, "fail": 1, "error": 2}


def reports_as_json(reports: Sequence[Report], not_judged: Sequence[str] = ()) -> str:
    """One report, or several with their common verdict, in the format of PROTOCOL.md. not_judged: sentences on layers
    of a model that have no dump."""
    bodies = [report.as_json() for report in reports]
    content = bodies[0] if len(bodies) == 1 else {"protocol": 1, "verdict": overall(reports), "targets": bodies}
    content = {**content, "not_judged": list(not_judged)} if not_judged else content
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8. Raises CommandError."""
    with command_errors(path):
        path.write_text(text, encoding="utf-8")
