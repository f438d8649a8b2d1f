"""classes.json, beside a classifier's adapter: its classes' names, in the order of their indices, and its pooling.

{"classes": ["fresh", "rotten"], "pooling": "mean"}
"""

import json
from collections.abc import Sequence
from pathlib import Path

from ..support.files import write_atomically
from ..support.tensor_file import TensorFileError, json_object
from .data import DataError

CLASSES = "classes.json"


def write_classes(folder: Path, classes: Sequence[str], pooling: str) -> None:
    """Write the file whole."""
    about = {"classes": list(classes), "pooling": pooling}
    write_atomically(folder / CLASSES, (json.dumps(about, ensure_ascii=False) + "\n").encode())


def read_classes(folder: Path) -> tuple[tuple[str, ...], str]:
    """The names in a folder, and the pooling. Raises DataError."""
    path = folder / CLASSES
    try:
        found = json_object(path.read_bytes(), "it")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}: it has the names of the classes that the adapter knows") from None
    except TensorFileError as error:
        raise DataError(f"{path}: {error}") from None
    match found:
        case {"classes": [*names], "pooling": str(pooling)} if all(isinstance(name, str) for name in names):
            return tuple(names), pooling
    raise DataError(f"{path} has no list of classes and no pooling")
