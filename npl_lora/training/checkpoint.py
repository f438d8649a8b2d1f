"""A checkpoint: all that a run needs to go on as if it had never stopped, in one file that is whole or not there.

The adapter's parameters, the optimiser's means, the numbers of steps and the best held-out loss are in it, bit by bit;
the recipe and the adapter's configuration, to be compared with those of the run that goes on. The order of the data and
the dropout masks follow from the seed and the step. Nothing is ever unpickled.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from .._extras import require
from .._tensor_file import TensorFileError, json_object, open_tensors
from ..adapters import LoRA
from ..adapters.files import write_whole
from .optimizers import AdamWState
from .step import Best, State

_KIND = "npl-lora checkpoint 2"
_BEST: dict[str, Any] = {"loss": float, "step": int, "worse_since": int}


class CheckpointError(ValueError):
    """A checkpoint that cannot be used. One sentence."""


def save(path: Path, state: State, about: dict[str, Any]) -> None:
    """Write the state, and what the run is about: numbers and texts that must be the same where it goes on."""
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
    write_whole(path, encode({name: np.ascontiguousarray(array) for name, array in tensors.items()}, metadata))


def load(path: Path, adapter: LoRA, about: dict[str, Any]) -> State:
    """The state in a checkpoint, for a new adapter of the same run. Raises CheckpointError."""
    try:
        tensors, metadata = open_tensors(path)
        if not isinstance(metadata, dict) or metadata.get("kind") != _KIND:
            raise CheckpointError(f"{path} is no checkpoint of npl-lora")
        numbers = json_object(str(metadata.get("numbers")), "what it says of itself")
        _compare(path, numbers["about"], json.loads(json.dumps(about)))
        return _state(tensors, numbers, adapter)
    except (TensorFileError, KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} cannot be used: {error}") from None


def _compare(path: Path, was: dict[str, Any], now: dict[str, Any], within: str = "") -> None:
    """Raises CheckpointError for the first thing that is not as it was."""
    for name, value in now.items():
        before = was.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            _compare(path, before, value, f"{name}: ")
        elif before != value:
            said = f"{within}{name} = {str(before)[:80]}"
            raise CheckpointError(f"{path} was made with {said}, this run has {str(value)[:80]}")


def _state(tensors: dict[str, np.ndarray], numbers: dict[str, Any], adapter: LoRA) -> State:
    parameters, means = {}, {}
    for name, own in adapter.parameters.items():
        parameters[name] = _like(tensors[f"parameter {name}"], own, name)
        taken = numbers["steps"].get(name, 0)
        if taken:
            m, v = (_like(tensors[f"{kind} {name}"], own, name) for kind in "mv")
            means[name] = AdamWState(m, v, int(taken))
    best = Best(**{name: kind(numbers["best"][name]) for name, kind in _BEST.items() if numbers["best"]})
    taken, micro_batches = int(numbers["step"]), int(numbers["micro_batches"])
    return State(adapter.with_parameters(parameters), means, taken, micro_batches, best)


def _like(array: np.ndarray, own: np.ndarray, name: str) -> np.ndarray:
    if array.shape != own.shape or array.dtype != own.dtype:
        raise TypeError(f"{name} is {array.dtype} {array.shape}, expected {own.dtype} {own.shape}")
    return np.array(array)
