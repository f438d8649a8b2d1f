"""classes.json: the names of a classifier's classes beside its adapter, in the order of their indices."""

import json
from pathlib import Path

from .data import DataError

CLASSES = "classes.json"


def read_classes(folder: Path) -> tuple[str, ...]:
    """The names in a folder. Raises DataError."""
    path = folder / CLASSES
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}: it has the names of the classes that the adapter knows") from None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise DataError(f"{path} is no list of names in JSON")
    return tuple(found)
