"""PEFT's files: adapter_config.json and adapter_model.safetensors in one folder.

A tensor's key is `base_model.model.` followed by the parameter's name. A file is checked against the model when it is
read. Unknown keys, missing keys and wrong shapes are errors that name them. Each file is written under another name and
then renamed, so a reader finds the old file or the new one and never half of one. Nothing is ever unpickled.

Source: PEFT 0.21.2, utils/save_and_load.py.
"""

import codecs
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..support.extras import require
from ..support.files import write_atomically
from ..support.finite import describe_first_nonfinite
from ..support.quoting import quote_name
from ..support.tensor_file import TensorFileError, json_object, open_tensors
from ._folder import CONFIG, TENSORS, find_problem
from ._modules import Module
from .config import ConfigError, LoRAConfig, changes_base
from .lora import LoRA, names_in_full, places, shapes

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
    """Read the configuration in a folder that holds an adapter. Raises AdapterError."""
    if problem := find_problem(folder):
        raise AdapterError(problem)
    path = folder / CONFIG
    try:
        return LoRAConfig.from_json(json_object(path.read_bytes().removeprefix(codecs.BOM_UTF8), "it"))
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
    targets: Sequence[str] = (),
) -> LoRA:
    """Read the adapter in a folder, for a model with these modules and tensors. targets: the model's default
    target_modules. Raises AdapterError, also for numbers that are not finite, or too large for dtype, unless
    allow_nonfinite."""
    config, path = load_config(folder), folder / TENSORS
    if problem := changes_base(config):
        raise AdapterError(f"{folder / CONFIG}: {problem}")
    if config.target_modules is None:
        config = replace(config, target_modules=tuple(targets))
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
        if found[name].size == 0:
            raise AdapterError(
                f"{path}: {name} is empty; it was saved from one process of several, which held a piece of it: gather "
                "the parameters (ZeRO-3, FSDP) and save the adapter again"
            )
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
    """A parameter's name. PEFT reads a key with or without the name of the adapter, which is "default"."""
    plain = re.sub(r"\.(lora_\w+)\.default(\.weight|\.bias|)$", r".\1\2", key)
    return plain.removeprefix(_PREFIX).replace(".base_layer.", ".")


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
    missing, unknown = sorted(expected - found), sorted(found - expected)
    if not found:
        raise AdapterError(f"{path} has no tensors: save the adapter again")
    if start := _other_start(missing, unknown):
        raise AdapterError(
            f"{path} has keys that start otherwise than PEFT's, which reads none of them: {quote_name(start[0])} where "
            f"{quote_name(start[1])} is expected; rename them"
        )
    if unknown:
        raise AdapterError(f"{path} has {_list(unknown)}, which {_belongs(unknown)} to nothing in the model")
    if missing:
        raise AdapterError(
            f"{path} lacks {_list(missing)}: save the whole adapter again, or leave these modules out of the "
            "configuration's target_modules and modules_to_save"
        )


def _other_start(missing: list[str], unknown: list[str]) -> tuple[str, str] | None:
    """The first unknown key and what it should be, if all have the tails of what is missing and other starts."""
    pairs = [(key, name) for key in unknown for name in missing if _tail(key) == _tail(name)]
    return (pairs[0][0], _PREFIX + pairs[0][1]) if unknown and len(pairs) == len(unknown) == len(missing) else None


def _tail(name: str) -> str:
    """What follows the words before the first number: the layer and what is in it."""
    return name[match.start() :] if (match := re.search(r"\.\d+\.", name)) else name


def _list(names: list[str]) -> str:
    shown = ", ".join(quote_name(name) for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _belongs(names: list[str]) -> str:
    return "belongs" if len(names) == 1 else "belong"
