"""A checkpoint: everything that a run needs to resume as if it had never stopped, in one file, written atomically.

It holds the exact bits of the adapter's parameters and the optimiser's means, the step counts, and the best held-out
loss. It also holds the recipe and the adapter's configuration; the run that resumes must have the same. The order of
the data and the dropout masks follow from the seed and the step. Nothing is ever unpickled.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from ..adapters import LoRA
from ..lora.optimizers import AdamWState
from ..support.extras import require
from ..support.files import write_atomically
from ..support.finite import describe_first_nonfinite
from ..support.quoting import quote_name, quote_value
from ..support.tensor_file import TensorFileError, json_object, open_tensors
from .step import Best, State

_KIND = "npl-lora checkpoint 2"
_DIGESTS = {"model": "another model", "rows": "other rows: the data, --length, --held-out or the tokenizer"}


class CheckpointError(ValueError):
    """A checkpoint cannot be used. The message is one sentence."""


def save(path: Path, state: State, about: dict[str, Any]) -> None:
    """Write the state, and the settings of the run. about: values for JSON that must be the same when it resumes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"parameter {name}": array for name, array in state.adapter.parameters.items()}
    for name, means in state.means.items():
        if means.step:
            tensors |= {f"m {name}": means.m, f"v {name}": means.v}
    steps = {name: means.step for name, means in state.means.items()}
    best = dataclasses.asdict(state.best) if math.isfinite(state.best.loss) else {}
    numbers = {"step": state.step, "micro_batches": state.micro_batches, "steps": steps, "about": about, "best": best}
    metadata = {"kind": _KIND, "numbers": json.dumps(numbers, sort_keys=True)}
    encode = require("safetensors.numpy", "models", "a checkpoint").save
    write_atomically(path, encode({name: np.ascontiguousarray(array) for name, array in tensors.items()}, metadata))


def load(path: Path, adapter: LoRA, about: dict[str, Any], allow_nonfinite: bool = False) -> State:
    """The state in a checkpoint, for a new adapter of the same run. Raises CheckpointError, also for numbers that are
    not finite, unless allow_nonfinite."""
    try:
        tensors, numbers = _open(path)
        _compare(_object(numbers, "about"), json.loads(json.dumps(about)))
        state = _state(tensors, numbers, adapter)
        if not allow_nonfinite and (problem := describe_first_nonfinite(tensors, tensors)):
            raise _UnusableError(f"is broken: {problem}")
        return state
    except (TensorFileError, _UnusableError) as error:
        raise CheckpointError(f"{path} cannot be used: it {error}") from None


def read_about(path: Path) -> dict[str, Any]:
    """The settings of the run that wrote the checkpoint. Raises CheckpointError."""
    try:
        return _object(_open(path)[1], "about")
    except (TensorFileError, _UnusableError) as error:
        raise CheckpointError(f"{path} cannot be used: it {error}") from None


def _open(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    tensors, metadata = open_tensors(path)
    if not isinstance(metadata, dict) or metadata.get("kind") != _KIND:
        raise _UnusableError("is not a checkpoint of this version of npl-lora")
    return tensors, json_object(str(metadata.get("numbers")), "has metadata that")


class _UnusableError(Exception):
    """What is wrong with the file, as the end of a sentence that starts with "it"."""


def _compare(was: dict[str, Any], now: dict[str, Any], within: str = "") -> None:
    """Raises _UnusableError for the first setting that differs."""
    for name in {**was, **now}:
        before, value = was.get(name), now.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            _compare(before, value, f"{name}: ")
        elif before != value and name in _DIGESTS and not within:
            raise _UnusableError(f"was made with {_DIGESTS[name]}")
        elif before != value:
            setting = f"{within}{name} = {quote_value(before, 80)}"
            raise _UnusableError(f"was made with {setting}, this run has {quote_value(value, 80)}")


def _state(tensors: dict[str, np.ndarray], numbers: dict[str, Any], adapter: LoRA) -> State:
    steps, step = _object(numbers, "steps"), _natural(numbers, "step")
    parameters, means, own = {}, {}, adapter.parameters
    if foreign := next((n for n in tensors if n.partition(" ")[2] not in own), None):
        raise _UnusableError(f"has {quote_name(foreign)}, which is not a parameter of this run")
    for name, like in own.items():
        parameters[name] = _tensor(tensors, f"parameter {name}", like)
        if taken := _natural(steps, name, 0):
            m, v = (_tensor(tensors, f"{kind} {name}", like) for kind in "mv")
            means[name] = AdamWState(m, v, taken)
    return State(adapter.with_parameters(parameters), means, step, _natural(numbers, "micro_batches"), _best(numbers))


def _best(numbers: dict[str, Any]) -> Best:
    best = _object(numbers, "best")
    if not best:
        return Best()
    if type(best.get("loss")) is not float or not math.isfinite(best["loss"]):
        raise _UnusableError(f"has a best loss of {quote_value(best.get('loss'))}, expected a number")
    return Best(best["loss"], _natural(best, "step"), _natural(best, "worse_since"))


def _object(numbers: dict[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(numbers.get(name), dict):
        raise _UnusableError(f"has {name} = {quote_value(numbers.get(name))}, expected an object")
    return dict(numbers[name])


def _natural(numbers: dict[str, Any], name: str, default: int | None = None) -> int:
    value = numbers.get(name, default)
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise _UnusableError(f"has {name} = {quote_value(value)}, expected an integer of at least 0")
    return value


def _tensor(tensors: dict[str, np.ndarray], name: str, own: np.ndarray) -> np.ndarray:
    if name not in tensors:
        raise _UnusableError(f"lacks {name}")
    array = tensors[name]
    if array.shape != own.shape or array.dtype != own.dtype:
        raise _UnusableError(f"has {name} as {array.dtype} {array.shape}, expected {own.dtype} {own.shape}")
    return np.array(array)
