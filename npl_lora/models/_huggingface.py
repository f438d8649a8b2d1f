"""Read a Hugging Face folder: config.json, and model.safetensors in one file or in shards with an index.

Weights may be in 4 bits, as bitsandbytes stores them. Other quantisations are refused by name.

Source: transformers 5.23.0 for the names of the files and their contents.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..support.quoting import quote_name, quote_value
from ..support.tensor_file import TensorFileError, json_object, open_tensors
from ._bitsandbytes import decoded
from ._config import ModelError
from ._weights import Weights, as_stored

_ONE, _INDEX = "model.safetensors", "model.safetensors.index.json"


def read_config(folder: Path) -> dict[str, Any]:
    """config.json. Raises ModelError."""
    return read_json(folder / "config.json")


def read_weights(folder: Path, dtype: Any = np.float32, allow_nonfinite: bool = False) -> Weights:
    """All tensors of floating dtypes, memory-mapped. Raises ModelError."""
    if (folder / "config.json").exists():
        _check_quantization(folder, read_config(folder).get("quantization_config"))
    raw: dict[str, tuple[Path, np.ndarray]] = {}
    for path in _files(folder):
        raw |= {name: (path, array) for name, array in _read_arrays(path, raw).items()}
    try:
        packed = list(decoded({name: array for name, (_, array) in raw.items()}, None if allow_nonfinite else folder))
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from None
    used = {part for _, _, parts in packed for part in parts}
    stored = {
        name: as_stored(array, dtype, None if allow_nonfinite else path, name)
        for name, (path, array) in raw.items()
        if name not in used and _is_floating(array)
    }
    return Weights({**stored, **{name: one for name, one, _ in packed}}, dtype)


def _check_quantization(folder: Path, found: Any) -> None:
    """Raise ModelError for weights that are stored in a way that is not read here."""
    if found is None:
        return
    method = found.get("quant_method") if isinstance(found, dict) else found
    if not isinstance(found, dict) or method != "bitsandbytes" or not found.get("load_in_4bit"):
        bits = " in 8 bits" if method == "bitsandbytes" else ""
        raise ModelError(
            f"{folder} has a quantization_config of the method {quote_value(method)}{bits}, expected none, or"
            " bitsandbytes in 4 bits: take the model as it was before that"
        )


def count_dtypes(folder: Path) -> Counter[str]:
    """How many values have each floating dtype. Raises ModelError."""
    found: Counter[str] = Counter()
    for path in _files(folder):
        for array in filter(_is_floating, _read_arrays(path).values()):
            found[array.dtype.name] += array.size
    return found


def _read_arrays(path: Path, others: Collection[str] = ()) -> dict[str, np.ndarray]:
    """The tensors in one file. others: the names in the shards before it."""
    try:
        found, _ = open_tensors(path)
    except TensorFileError as error:
        raise ModelError(f"{path} {error}") from None
    if twice := sorted(name for name in found if name in others):
        raise ModelError(f"{path} has {quote_name(twice[0])}, which another shard has too")
    return found


def _is_floating(array: np.ndarray) -> bool:
    return array.dtype.kind in "fV"  # V: ml_dtypes' own


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
