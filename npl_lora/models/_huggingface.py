"""Read a Hugging Face folder: config.json, and model.safetensors in one file or in shards with an index.

Source: transformers 5.23.0 for the names of the files and their contents.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..support.quoting import quote_name
from ..support.tensor_file import TensorFileError, json_object, open_tensors
from ._config import ModelError
from ._weights import Stored, Weights, as_stored

_ONE, _INDEX = "model.safetensors", "model.safetensors.index.json"


def read_config(folder: Path) -> dict[str, Any]:
    """config.json. Raises ModelError."""
    return read_json(folder / "config.json")


def read_weights(folder: Path, dtype: Any = np.float32, allow_nonfinite: bool = False) -> Weights:
    """All tensors of floating dtypes, memory-mapped. Raises ModelError."""
    stored: dict[str, Stored] = {}
    for path in _files(folder):
        for name, array in _read_arrays(path, stored).items():
            stored[name] = as_stored(array, dtype, None if allow_nonfinite else path, name)
    return Weights(stored, dtype)


def count_dtypes(folder: Path) -> Counter[str]:
    """How many values have each floating dtype. Raises ModelError."""
    found: Counter[str] = Counter()
    for path in _files(folder):
        for array in _read_arrays(path).values():
            found[array.dtype.name] += array.size
    return found


def _read_arrays(path: Path, others: Collection[str] = ()) -> dict[str, np.ndarray]:
    """The tensors of floating dtypes in one file. others: the names in the shards before it."""
    try:
        found, _ = open_tensors(path)
    except TensorFileError as error:
        raise ModelError(f"{path} {error}") from None
    if twice := sorted(name for name in found if name in others):
        raise ModelError(f"{path} has {quote_name(twice[0])}, which another shard has too")
    return {name: array for name, array in found.items() if array.dtype.kind in "fV"}  # V: ml_dtypes' own


def _files(folder: Path) -> list[Path]:
    """The one file, or all shards that the index names."""
    if (folder / _ONE).exists():
        return [folder / _ONE]
    if not (folder / _INDEX).exists():
        raise ModelError(f"{folder} has neither {_ONE} nor {_INDEX}")
    shards: Mapping[str, Any] = read_json(folder / _INDEX).get("weight_map", {})
    names = set(map(str, shards.values())) if isinstance(shards, dict) else set()
    if not names or not all(re.fullmatch(r"[\w-][\w.-]{0,200}", name, re.ASCII) for name in names):
        raise ModelError(f"{folder / _INDEX} names no shards in its folder")
    return [folder / name for name in sorted(names)]


def read_json(path: Path) -> dict[str, Any]:
    """An object in a JSON file. Raises ModelError."""
    try:
        return json_object(path.read_bytes(), "it")
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from None
    except TensorFileError as error:
        raise ModelError(f"{path}: {error}") from None
