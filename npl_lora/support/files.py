"""Files are written whole: a reader finds the old one or the new one, and never half of either."""

import os
from pathlib import Path


def write_atomically(path: Path, raw: bytes) -> None:
    """Write a file beside the one that it is to be, and put it in place when it is on the disk. What a process that was
    killed has left there is written over by the next."""
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
