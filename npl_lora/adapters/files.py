"""PEFT's files: adapter_config.json and adapter_model.safetensors in one folder.

A tensor's key is `base_model.model.` followed by the parameter's name. A file is checked against the model when it is
read. Unknown keys, missing keys and wrong shapes are errors that name them. Each file is written under another name and
then renamed, so a reader finds the old file or the new one and never half of one. Nothing is ever unpickled.

Source: PEFT 0.21.2, utils/save_and_load.py.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..support.extras import require
from ..support.files import write_atomically
from ..support.finite import describe_first_nonfinite
from ..support.quoting import quote_name
from ..support.tensor_file import TensorFileError, json_object, open_tensors
from ._modules import Module
from .config import ConfigError, LoRAConfig
from .lora import LoRA, names_in_full, places, shapes

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."


class AdapterError(ValueError):
    """An adapter that does not fit the model or cannot be read. The message is one sentence."""


def save(adapter: LoRA, folder: Path, base_model: str | None = None) -> None:
    """Write the adapter as PEFT would. base_model: the model's name or folder, which PEFT reads when it loads."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {_key(name, adapter): np.ascontiguousarray(array) for name, array in adapter.parameters.items()}
    encode = require("safetensors.numpy", "models", "an adapter's file").save
    write_atomically(folder / TENSORS, encode(tensors, {"format": "pt"}))
    about = adapter.config.as_json()
    if base_model is not None:
        about["base_model_name_or_path"] = base_model
    write_atomically(folder / CONFIG, (json.dumps(about, indent=2, sort_keys=True) + "\n").encode())


def load_config(folder: Path) -> LoRAConfig:
    """Read the configuration in a folder. Raises AdapterError."""
    path = folder / CONFIG
    try:
        return LoRAConfig.from_json(json_object(path.read_bytes(), "it"))
    except OSError as error:
        raise AdapterError(f"{path}: {error.strerror}") from None
    except (TensorFileError, ConfigError, TypeError) as error:
        raise AdapterError(f"{path}: {error}") from None


def load(
    folder: Path,
    modules: Mapping[str, Module],
    base: Mapping[str, Any],
    dtype: Any = np.float32,
    allow_nonfinite: bool = False,
) -> LoRA:
    """Read the adapter in a folder, for a model with these modules and tensors. Raises AdapterError, also for numbers
    that are not finite, or too large for dtype, unless allow_nonfinite."""
    config, path = load_config(folder), folder / TENSORS
    try:
        tensors, _ = open_tensors(path)
    except TensorFileError as error:
        raise AdapterError(f"{path} {error}") from None
    try:
        at, expected = places(config, modules), shapes(config, modules)
        expected |= {name: tuple(base[name].shape) for name in names_in_full(config, modules, base)}
    except ConfigError as error:
        raise AdapterError(f"{folder / CONFIG}: {error}") from None
    found = {_name(key): array for key, array in tensors.items()}
    found = {name: array for name, array in found.items() if _within(name) not in expected}
    _check_copies(path, {name: found.pop(name) for name in list(found) if name not in expected and name in base}, base)
    _check_names(path, set(expected), set(found))
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise AdapterError(f"{path}: {name} has shape {found[name].shape}, expected {shape}")
        if found[name].dtype.kind not in "fV":  # V: ml_dtypes' own
            raise AdapterError(f"{path}: {name} has dtype {found[name].dtype}, expected a floating dtype")
    with np.errstate(over="ignore"):
        parameters = {name: np.array(found[name], dtype) for name in expected}
    if not allow_nonfinite and (problem := describe_first_nonfinite(parameters, found)):
        raise AdapterError(f"{path}: {problem}")
    return LoRA(config, parameters, at)


def _key(name: str, adapter: LoRA) -> str:
    """A parameter's key. PEFT wraps a layer that it adapts, so the layer's own tensors are one name deeper."""
    path, _, last = name.rpartition(".")
    is_base = path in adapter.places and name not in (adapter.places[path].A, adapter.places[path].B)
    return f"{_PREFIX}{path}.base_layer.{last}" if is_base else _PREFIX + name


def _name(key: str) -> str:
    return key.removeprefix(_PREFIX).replace(".base_layer.", ".")


def _within(name: str) -> str | None:
    """The name that a key of PEFT's wrapper duplicates, or None for any other key.

    With bias = "all", PEFT writes the biases of a module to save three times: under the module's own name, which is
    read, and twice under names of its wrapper.
    """
    plain = name.replace(".modules_to_save.", ".").replace(".original_module.", ".")
    return None if plain == name else plain


def _check_copies(path: Path, copies: Mapping[str, np.ndarray], base: Mapping[str, Any]) -> None:
    """PEFT also saves an embedding that it adapts. It must equal the model's."""
    if problem := describe_first_nonfinite(copies, copies):
        raise AdapterError(f"{path}: {problem}")
    for name, copy in copies.items():
        if copy.shape != base[name].shape or not np.array_equal(copy, np.asarray(base[name]).astype(copy.dtype)):
            raise AdapterError(f"{path} was made for another model: its {name} is not this one's")


def _check_names(path: Path, expected: set[str], found: set[str]) -> None:
    """Raise AdapterError unless every key is a parameter's and every parameter has its key."""
    if unknown := sorted(found - expected):
        raise AdapterError(f"{path} has {_list(unknown)}, which {_belongs(unknown)} to nothing in the model")
    if missing := sorted(expected - found):
        raise AdapterError(f"{path} lacks {_list(missing)}")


def _list(names: list[str]) -> str:
    shown = ", ".join(quote_name(name) for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _belongs(names: list[str]) -> str:
    return "belongs" if len(names) == 1 else "belong"
