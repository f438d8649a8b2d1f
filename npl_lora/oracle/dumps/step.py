"""One lora_linear step from a dump: its arrays as rows and in blocks, and the checks that their shapes agree."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..definition import scale
from ..dtypes import is_narrow
from ..tolerance.rounding import Precision, Rounded, RoundingNamespace, precision_of
from ..tolerance.truncation import namespace_of
from .file import Dump, DumpError
from .reach import check_reach

# The axes of each array. "..." stands for any number of leading axes, the same in all arrays.
INPUTS = {"x": "... in", "W": "out in", "A": "r in", "B": "out r", "dy": "... out", "b": "out", "mask": "... in"}
OUTPUTS = {"y": "... out", "dx": "... in", "dA": "r in", "dB": "out r"}

_BLOCK = 1 << 21  # numbers; about thirty arrays of this size are alive at once, 16 MiB each


@dataclass(frozen=True)
class Step:
    """arrays: the inputs and outputs in the dump, their leading axes flattened to one (rows).

    sizes: the lengths of in, out, r and rows ("..."). leading: the lengths of the original leading axes. refused: for
    each output that cannot be judged, why. inner: a coarser precision that the user allows, a key of rounding.INNER.
    id: the dump's.
    """

    config: dict[str, Any]
    dtype: str
    arrays: dict[str, np.ndarray] = field(repr=False)
    sizes: dict[str, int]
    leading: tuple[int, ...]
    refused: dict[str, str]
    inner: str | None = None
    id: str = ""

    @property
    def precision(self) -> Precision:
        return precision_of(self.dtype, self.inner)

    @cached_property  # only arrays of one namespace can be combined
    def xp(self) -> RoundingNamespace:
        return namespace_of(self.precision)

    @property
    def scale(self) -> float:
        return scale(self.config)

    def has(self, *names: str) -> bool:
        return all(name in self.arrays for name in names)

    def block(self, name: str, *where: Any) -> np.ndarray:
        """A block of an array, in float64."""
        return np.asarray(self.arrays[name][where], dtype=np.float64)

    def exact(self, name: str, *where: Any) -> Rounded:
        """A block of an input, as an array that tracks rounding errors."""
        return self.xp.input(self.block(name, *where))

    def masked_x(self, *where: Any) -> Rounded:
        """A block of x~ = x o mask."""
        x = self.exact("x", *where)
        return x * self.exact("mask", *where) if self.has("mask") else x

    def blocks(self, axis: str) -> Iterator[slice]:
        """Slices of an axis, short enough that a block with its full cross-section fits into memory."""
        across = {"...": max(self.sizes["in"], self.sizes["out"]), "in": self.sizes["..."], "out": self.sizes["..."]}
        return slices(self.sizes[axis], across[axis])


def slices(length: int, across: int) -> Iterator[slice]:
    """An axis in slices: a slice times the length across it is about _BLOCK numbers."""
    step = max(1, _BLOCK // max(1, across))
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def lora_linear_step(dump: Dump, inner: str | None = None) -> Step:
    """The step in a dump of contract lora_linear. Raises DumpError if inputs are missing or do not fit together."""
    if unknown := [name for name in dump.arrays if name not in INPUTS | OUTPUTS]:
        raise DumpError(f"has {unknown[0][:40]!r}, expected some of {', '.join(INPUTS | OUTPUTS)}")
    for name in ("A", "B"):
        if name not in dump.arrays:
            raise DumpError(f"has no {name}: there is nothing to judge without A and B")
    leading = _leading_axes(dump.arrays)
    sizes = _sizes({name: a for name, a in dump.arrays.items() if name in INPUTS}, leading)
    _check_config(dump.config, sizes["r"])
    arrays, refused = {}, {}
    for name, array in dump.arrays.items():
        if name in OUTPUTS and (problem := _misfit(name, array, sizes, leading)):
            refused[name] = problem
        else:
            rows = (INPUTS | OUTPUTS)[name].startswith("...")
            arrays[name] = array.reshape(-1, array.shape[-1]) if rows else array
    step = Step(dump.config, dump.dtype, arrays, sizes, leading, refused, inner, dump.id)
    for name in arrays:
        _check_finite(step, name)
    check_reach({name: array for name, array in arrays.items() if name in INPUTS}, dump.config)
    return step


def _leading_axes(arrays: dict[str, np.ndarray]) -> tuple[int, ...]:
    """The leading axes of an input, or of an output if no input has them."""
    shaped = (arrays[name] for name in ("x", "dy", "mask", "y", "dx") if name in arrays)
    return next((array.shape[:-1] for array in shaped), (0,))


def _sizes(inputs: dict[str, np.ndarray], leading: tuple[int, ...]) -> dict[str, int]:
    """in, out, r and the number of rows. Raises DumpError if the inputs disagree on them."""
    for name in ("A", "B"):
        if inputs[name].ndim != 2:
            raise DumpError(f"{name} has shape {inputs[name].shape}, expected {_shape(INPUTS[name])}")
    sizes = {"r": inputs["A"].shape[0], "in": inputs["A"].shape[1], "out": inputs["B"].shape[0]}
    sizes["..."] = math.prod(leading)
    for name in (name for name in INPUTS if name in inputs):
        array = inputs[name]
        if not _is_floating(array):
            raise DumpError(f"{name} has dtype {array.dtype}, expected a floating dtype")
        if problem := _wrong_shape(name, array, sizes, leading):
            raise DumpError(problem)
        if array.size == 0:
            raise DumpError(f"{name} has shape {array.shape}: it is empty")
    return sizes


def _misfit(name: str, output: np.ndarray, sizes: dict[str, int], leading: tuple[int, ...]) -> str:
    """Why an output is wrong whatever its numbers are, or nothing."""
    if not _is_floating(output):
        return f"dtype {output.dtype}, expected a floating dtype"
    return _wrong_shape(name, output, sizes, leading)


def _wrong_shape(name: str, array: np.ndarray, sizes: dict[str, int], leading: tuple[int, ...]) -> str:
    axes = (INPUTS | OUTPUTS)[name]
    expected = tuple(n for axis in axes.split() for n in (leading if axis == "..." else (sizes[axis],)))
    if array.shape == expected:
        return ""
    return f"{name} has shape {array.shape}, expected {_shape(axes)} = {expected}"


def _shape(axes: str) -> str:
    return f"({axes.replace(' ', ', ')})"


def _is_floating(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" or is_narrow(array.dtype)


def _check_config(config: dict[str, Any], r: int) -> None:
    if type(config.get("r")) is not int or config["r"] != r:
        raise DumpError(f"config has r = {_shorten(config.get('r'))}, but A has {r} rows")
    alpha = config.get("alpha")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < abs(alpha) < 1e30:  # NaN is not
        raise DumpError(f"config has alpha = {_shorten(alpha)}, expected a number that is not 0")
    if type(config.get("use_rslora")) is not bool:
        raise DumpError(f"config has use_rslora = {_shorten(config.get('use_rslora'))}, expected true or false")


def _shorten(value: Any) -> str:
    return repr(value)[:40]


def _check_finite(step: Step, name: str) -> None:
    """Raises DumpError for an input that is not finite. Such an output is refused, with the place of the number."""
    array = step.arrays[name]
    table = array.reshape(-1, array.shape[-1])
    for rows in slices(*table.shape):
        finite = np.isfinite(table[rows])
        if not finite.all():
            flat = rows.start * table.shape[1] + int(np.argmin(finite))
            where = _place(step, name, flat)
            problem = f"not finite at {where}: {np.asarray(table.flat[flat], np.float64)}"
            if name in INPUTS:
                count = array.size - int(np.count_nonzero(np.isfinite(array)))
                numbers = f"{count:,} of {array.size:,} numbers"
                raise DumpError(f"{name} is {problem} ({numbers}): take a step that did not overflow")
            step.refused[name] = problem
            break


def _place(step: Step, name: str, flat: int) -> str:
    rows = (INPUTS | OUTPUTS)[name].startswith("...")
    shape = (*step.leading, step.arrays[name].shape[-1]) if rows else step.arrays[name].shape
    return str([int(i) for i in np.unravel_index(flat, shape)])
