"""The memory of a process, in bytes.

    resident    in memory now
    peak        the largest value of resident so far
    anonymous   the resident memory without pages of mapped files (for example of a mapped checkpoint), which the
                system takes back when it needs them and reads again later

Linux gives all three for any process. Elsewhere a process knows only its own peak.

Source: proc_pid_status(5), getrusage(2).
"""

import sys
from pathlib import Path

_FIELDS = {"VmHWM": "peak", "VmRSS": "resident", "RssAnon": "anonymous"}


def used(process: int | str = "self") -> dict[str, int]:
    """The values that are known, by name; none for a process that has ended."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return _own_peak() if process == "self" else {}
    rows = (line.split() for line in text.splitlines())
    return {_FIELDS[row[0][:-1]]: 1024 * int(row[1]) for row in rows if row[0][:-1] in _FIELDS}


def _own_peak() -> dict[str, int]:
    try:
        import resource
    except ImportError:  # Windows
        return {}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak": peak if sys.platform == "darwin" else 1024 * peak}
