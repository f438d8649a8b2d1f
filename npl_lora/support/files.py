"""Atomic writes: a reader finds the old file or the new one, and never half of either."""

import os
from pathlib import Path


def write_atomically(path: Path, raw: bytes) -> None:
    """Write to a temporary file in the same folder, and move it into place once it is on the disk.

    If the process is killed halfway, the temporary file stays, and the next write replaces it.
    """
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException as error:
        new.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(new)):
            error.filename = str(path)
        raise
