"""A case: one concrete question put to a subject. Named arrays and a configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """`case["x"]` is a NumPy array, `"mask" in case` tells whether an optional one is there, `case.get("mask")` is None
    where it is not, `case.config` is a dict.

    contract: what is asked, for example "lora_linear". id: names the case within all contracts. dtype: the name of the
    floating dtype that the arrays are stored in and that the answers are judged by. exact: nothing is rounded on the
    way to the right answer, and nothing is allowed; for the judge, a subject is not told.
    """

    contract: str
    id: str
    dtype: str
    config: dict[str, Any]
    arrays: Mapping[str, np.ndarray] = field(repr=False)
    exact: bool = False
    inner: str | None = None  # the coarser precision that the user allows; the subject is not told
    forward_only: bool = False  # gradients are not asked for; the subject is not told
    without: tuple[str, ...] = ()  # outputs that this subject is not asked for

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __contains__(self, name: object) -> bool:
        return name in self.arrays

    def get(self, name: str, default: Any = None) -> Any:
        """The array of this name, or the default where there is none."""
        return self.arrays.get(name, default)

    def copy(self) -> "Case":
        """The same case on writable copies, to be given away."""
        arrays = {name: array.copy() for name, array in self.arrays.items()}
        return replace(self, config=dict(self.config), arrays=arrays)

    def gradients(self, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """Those of these outputs that are gradients: d<name> for the name of one of the case's arrays."""
        names = {f"d{name}" for name in self.arrays}
        return {name: output for name, output in outputs.items() if name in names}

    def asked(self, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """Those of these outputs that are asked for: with forward_only all but the gradients, and none of `without`."""
        ignored = {*self.without, *(self.gradients(outputs) if self.forward_only else {})}
        return {name: output for name, output in outputs.items() if name not in ignored}

    def with_arrays(self, arrays: Mapping[str, np.ndarray]) -> "Case":
        """The same case with these arrays in the place of its own, or beside them."""
        return replace(self, arrays={**self.arrays, **arrays})


def widen(case: Case) -> dict[str, np.ndarray]:
    """The case's arrays with every number in float64; integers and booleans as they are."""
    return {name: a if a.dtype.kind in "biu" else a.astype(np.float64) for name, a in case.arrays.items()}


def is_dropout_mask(name: str) -> bool:
    """Whether an array of this name is a layer's dropout mask: "mask", or "mask_q" where there are several layers."""
    return name == "mask" or name.startswith("mask_")
