"""PEFT's files: adapter_config.json and adapter_model.safetensors in one folder.

A tensor's key is `base_model.model.` followed by the parameter's name. A file is checked against the model when it is
read. It may also have tensors of the model itself, which then stand in place of the model's. Unknown keys, missing keys
and wrong shapes are errors that name them. Each file is written under another name and then renamed, so a reader finds
the old file or the new one and never half of one. Nothing is ever unpickled.

Source: PEFT 0.21.2, utils/save_and_load.py.
"""

import codecs
import json
import re
from collections.abc import Collection, Mapping, Sequence
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
from ._tokens import token_name
from .config import ConfigError, LoRAConfig, changes_base
from .lora import LoRA, names_in_full, places, shapes, token_rows

_PREFIX = "base_model.model."


class AdapterError(ValueError):
    """An adapter that does not fit the model or cannot be read. The message is one sentence."""


def save(adapter: LoRA, folder: Path, base_model: str | None = None) -> None:
    """Write the adapter as PEFT would. base_model: the model's name or folder, which PEFT reads when it loads."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {**adapter.frozen, **adapter.parameters}
    tensors = {_key(name, adapter): np.ascontiguousarray(array) for name, array in arrays.items()}
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
    tables: Sequence[str] = (),
) -> LoRA:
    """Read the adapter in a folder, for a model with these modules and tensors.

    targets: the model's default target_modules. tables: the paths of the modules that have a row for each token.
    Raises AdapterError, also for numbers that are not finite, or too large for dtype, unless allow_nonfinite."""
    config, path = load_config(folder), folder / TENSORS
    if problem := changes_base(config):
        raise AdapterError(f"{folder / CONFIG}: {problem}")
    if config.target_modules is None:
        config = replace(config, target_modules=tuple(targets))
    try:
        tensors, _ = open_tensors(path)
    except TensorFileError as error:
        raise AdapterError(f"{path} {error}") from None
    names = {key: _name(key) for key in tensors}
    found = {names[key]: array for key, array in tensors.items()}
    modules = _resized(path, modules, tables, found)
    try:
        at, some, trained = places(config, modules), token_rows(config, modules), shapes(config, modules)
        trained |= {name: _shape(name, modules, base) for name in names_in_full(config, modules, base)}
    except ConfigError as error:
        raise AdapterError(f"{folder / CONFIG}: {error}") from None
    sharing = {path for path, module in modules.items() if module.shares.removesuffix(".weight") in some}
    copies = {token_name(path) for path in sharing}  # of a tied table's rows, which PEFT may write twice
    found = {name: array for name, array in found.items() if _within(name) not in trained and name not in copies}
    brought = {
        name: _shape(name, modules, base)
        for key, name in names.items()
        if name in found and name not in trained and _is_of_model(key, name, {*at, *some, *sharing}, modules, base)
    }
    _check_names(path, set(trained), found.keys() - brought.keys())
    arrays = _read(path, found, trained | brought, dtype, allow_nonfinite)
    frozen = _standing({name: arrays[name] for name in brought}, found, modules, base)
    return LoRA(config, {name: arrays[name] for name in trained}, at, frozen, some)


def _read(
    path: Path,
    found: Mapping[str, np.ndarray],
    expected: Mapping[str, tuple[int, ...]],
    dtype: Any,
    allow_nonfinite: bool,
) -> dict[str, np.ndarray]:
    """The arrays in dtype. Raises AdapterError for a wrong shape or dtype, and for numbers that are not finite."""
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
        arrays = {name: np.array(found[name], dtype) for name in expected}
    if not allow_nonfinite and (problem := describe_first_nonfinite(arrays, found)):
        raise AdapterError(f"{path}: {problem}")
    return arrays


def _resized(
    path: Path, modules: Mapping[str, Module], tables: Sequence[str], found: Mapping[str, np.ndarray]
) -> dict[str, Module]:
    """The modules with as many tokens as the adapter's own tables have: it may have been trained with more."""
    own = {table: f"{table}.weight" for table in tables}
    counts = {table: len(found[name]) for table, name in own.items() if name in found and found[name].ndim == 2}
    sizes = {table: modules[table].shape[0] for table in tables if not modules[table].shares} | counts
    if counts and len(set(sizes.values())) > 1:
        listed = ", ".join(f"{table} {size:,}" for table, size in sizes.items())
        raise AdapterError(
            f"{path}: the tables do not have equally many tokens ({listed}); the adapter was trained with a resized "
            "vocabulary: save it again with save_pretrained(FOLDER, save_embedding_layers=True), which writes them all"
        )
    size = next(iter(counts.values()), None)
    return {
        name: replace(module, shape=(size, module.shape[1])) if size and name in tables else module
        for name, module in modules.items()
    }


def _shape(name: str, modules: Mapping[str, Module], base: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of a tensor that stands in place of the model's."""
    path, _, last = name.rpartition(".")
    if last == "weight" and path in modules:
        shape = modules[path].shape
        return shape[::-1] if modules[path].transposed else shape
    return tuple(base[name].shape)


def _is_of_model(
    key: str, name: str, at: Collection[str], modules: Mapping[str, Module], base: Mapping[str, Any]
) -> bool:
    """Whether a key is that of one of the model's own tensors, which is one name deeper where the adapter sits."""
    path, _, last = name.rpartition(".")
    is_shared = last == "weight" and path in modules and bool(modules[path].shares)
    return (name in base or is_shared) and (".base_layer." in key) == (path in at)


def _standing(
    arrays: Mapping[str, np.ndarray],
    stored: Mapping[str, np.ndarray],
    modules: Mapping[str, Module],
    base: Mapping[str, Any],
) -> dict[str, np.ndarray]:
    """{the model's name: array} of the model's own tensors that the file has, if they are others than the model's. What
    a tied output layer brings is the table of both, as in PEFT."""
    shared = {f"{path}.weight": module.shares for path, module in modules.items() if module.shares}
    frozen = {}
    for name, array in sorted(arrays.items(), key=lambda item: item[0] in shared):  # the output layer's last, as PEFT
        target = shared.get(name, name)
        present = np.asarray(base[target])
        if array.shape != present.shape or not np.array_equal(stored[name], present.astype(stored[name].dtype)):
            frozen[target] = array
    return frozen


def _key(name: str, adapter: LoRA) -> str:
    """A parameter's key. PEFT wraps a layer that it adapts, so the layer's own tensors are one name deeper."""
    path, _, last = name.rpartition(".")
    is_base = path in adapter.places and name not in adapter.places[path].names
    if adapter.tokens(path):
        return f"{_PREFIX}{path}.token_adapter.base_layer.{last}"
    return f"{_PREFIX}{path}.base_layer.{last}" if is_base else _PREFIX + name


def _name(key: str) -> str:
    """A parameter's name. PEFT reads a key with or without the name of the adapter, which is "default"."""
    plain = re.sub(r"\.(lora_\w+)\.default(\.weight|\.bias|)$", r".\1\2", key)
    plain = plain.replace(".lora_magnitude_vector.weight", ".lora_magnitude_vector")
    return plain.removeprefix(_PREFIX).replace(".token_adapter.base_layer.", ".").replace(".base_layer.", ".")


def _within(name: str) -> str | None:
    """The name that a key of PEFT's wrapper duplicates, or None for any other key.

    With bias = "all", PEFT writes the biases of a module to save three times: under the module's own name, which is
    read, and twice under names of its wrapper.
    """
    plain = name.replace(".modules_to_save.", ".").replace(".original_module.", ".")
    return None if plain == name else plain


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
