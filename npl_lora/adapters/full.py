"""Full fine-tuning, to compare LoRA with: the model's own tensors are trained, and there are no A and B.

It is an adapter without places, so the code that trains an adapter trains it too. It can be limited to some modules,
for example a classifier's head on frozen features.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ._adapter import Adapter
from ._modules import Module
from .config import ConfigError, LoRAConfig
from .lora import check_saved, names_in_full


class Full(Adapter):
    """parameters: {name: array}, the tensors that are trained, under the checkpoint's own names."""

    unties = False  # one table, trained in both of its places

    def __repr__(self) -> str:
        count = sum(array.size for array in self.parameters.values())
        return f"Full({len(self.parameters)} tensors, {count:,} parameters)"

    def with_parameters(self, parameters: Mapping[str, np.ndarray]) -> "Full":
        """The same tensors with other values."""
        return Full(parameters)


def full(
    base: Mapping[str, np.ndarray],
    modules: Mapping[str, Module],
    only: Sequence[str] | None = None,
    dtype: Any = np.float32,
) -> Full:
    """Copies of all the model's tensors, or of those in the modules that `only` names as modules_to_save does.

    Raises ConfigError for a name that no module has.
    """
    if isinstance(only, str):
        raise ConfigError(f"modules is the string {only!r}, expected a list of names such as [{only!r}]")
    if only is None:
        return Full({name: np.array(base[name], dtype) for name in base})
    config = LoRAConfig(modules_to_save=tuple(only))
    check_saved(config, modules, base)
    return Full({n: np.array(base[start], dtype) for n, start in names_in_full(config, modules, base).items()})
