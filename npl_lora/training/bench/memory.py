"""How much memory a process has, in bytes.

    resident    all of it that is in memory now
    peak        the most that was
    anonymous   what only this process has; the rest are pages of mapped files, a mapped checkpoint's for one, which
                the system takes back when it needs them and reads again

Linux says all three of any process; elsewhere a process knows its own peak.

Source: proc_pid_status(5), getrusage(2).
"""

import sys
from pathlib import Path

_FIELDS = {"VmHWM": "peak", "VmRSS": "resident", "RssAnon": "anonymous"}


def used(process: int | str = "self") -> dict[str, int]:
    """What is known; nothing of a process that has ended."""
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
