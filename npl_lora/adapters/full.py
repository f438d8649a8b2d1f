"""Full fine-tuning in an adapter's place, to be compared with: no A and B, the model's own tensors are trained.

It has the interface of LoRA and no places, so that whatever trains an adapter trains this. With the modules' names
given, only theirs are trained: a classifier's head alone, for one, on frozen features.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .config import ConfigError, LoRAConfig
from .lora import LoRA, trained_in_full
from .modules import Module


class Full(LoRA):
    """parameters: {name: array}, the model's tensors that are trained, under the checkpoint's own names."""

    unties = False  # a head that shares its table goes on sharing it

    def __init__(self, parameters: Mapping[str, np.ndarray]) -> None:
        super().__init__(LoRAConfig(), dict(parameters), {})

    def __repr__(self) -> str:
        count = sum(array.size for array in self.parameters.values())
        return f"Full({len(self.parameters)} tensors, {count:,} parameters)"

    def with_parameters(self, parameters: Mapping[str, np.ndarray]) -> "Full":
        """The same with other values."""
        return Full(parameters)


def full(
    base: Mapping[str, np.ndarray],
    modules: Mapping[str, Module],
    only: Sequence[str] | None = None,
    dtype: Any = np.float32,
) -> Full:
    """All of a model's tensors, copied, to be trained; or those of the modules named as in modules_to_save.

    Raises ConfigError for a name that is no module's.
    """
    if isinstance(only, str):
        raise ConfigError(f"modules is the string {only!r}, expected a list of names such as [{only!r}]")
    names = base if only is None else trained_in_full(LoRAConfig(modules_to_save=tuple(only)), modules, base)
    return Full({name: np.array(base[name], dtype) for name in names})
