"""classes.json, next to a classifier's adapter: the class names, in the order of their indices, and the pooling.

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
    """Write the file, atomically."""
    about = {"classes": list(classes), "pooling": pooling}
    write_atomically(folder / CLASSES, (json.dumps(about, ensure_ascii=False) + "\n").encode())


def read_classes(folder: Path) -> tuple[tuple[str, ...], str]:
    """The class names and the pooling from a folder. Raises DataError."""
    path = folder / CLASSES
    try:
        content = json_object(path.read_bytes(), "it")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}: this file holds the adapter's class names") from None
    except TensorFileError as error:
        raise DataError(f"{path}: {error}") from None
    match content:
        case {"classes": [*names], "pooling": str(pooling)} if all(isinstance(name, str) for name in names):
            return tuple(names), pooling
    raise DataError(f"{path} lacks a list of class names or the pooling")
