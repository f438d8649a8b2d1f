"""What a contract is, and how its cases are drawn."""

import copy
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ops import Pullback
from ..case import Case
from ..judge import OutputVerdict

Array = Any
Config = dict[str, Any]


class Draw:
    """Arrays for one case, drawn in float64 and rounded once to the case's dtype.

    Every case has its own stream, keyed by its name: adding one does not change the others. Every dtype draws the same
    numbers, so a fault shows in the same place in each.
    """

    def __init__(self, name: str, dtype: str) -> None:
        self.rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
        self.dtype = np.dtype(dtype)

    def normal(self, *shape: int, std: float = 1.0) -> np.ndarray:
        """Normal numbers, cut off at 3 standard deviations: no case may overflow float16."""
        return (std * np.clip(self.rng.standard_normal(shape), -3.0, 3.0)).astype(self.dtype)

    def factors(self, out: int, in_: int, r: int) -> tuple[np.ndarray, np.ndarray]:
        """A (r, in) and B (out, r), both of them non-zero, with s B A about as large as a weight for s about 1."""
        return self.normal(r, in_, std=in_**-0.5), self.normal(out, r, std=r**-0.5)

    def weight(self, out: int, in_: int) -> np.ndarray:
        """A weight (out, in) that keeps the size of what it is applied to."""
        return self.normal(out, in_, std=in_**-0.5)

    def widened(self) -> "Draw":
        """The same stream in float64: for drawing until something holds, the same numbers in every dtype."""
        wide = copy.copy(self)
        wide.dtype = np.dtype(np.float64)
        return wide

    def away_from_zero(self, *shape: int, std: float = 1.0) -> np.ndarray:
        """Of both signs and at least half of std: what is multiplied with these can be told again."""
        size = std * (0.5 + np.minimum(np.abs(self.rng.standard_normal(shape)), 2.0))
        return np.where(self.rng.random(shape) < 0.5, -size, size).astype(self.dtype)

    def magnitudes(self, n: int) -> np.ndarray:
        """Lengths of rows: positive, and far from those of a weight and its update, which are about sqrt(2)."""
        return (2.0 + 0.25 * np.clip(self.rng.standard_normal(n), -3.0, 3.0)).astype(self.dtype)

    def dropout_mask(self, *shape: int, p: float) -> np.ndarray:
        """0 with probability p, else 1 / (1 - p). p is a power of two's complement, so the mask is exact."""
        return ((self.rng.random(shape) >= p) / (1.0 - p)).astype(self.dtype)


@dataclass(frozen=True)
class Contract:
    """name; the right answer, as a function of arrays and configuration; and how to draw each case, by the case's name.

    answer(arrays, config, definition) -> {output: array}. draws: {id: draw(Draw) -> (arrays, config)}.
    forward(arrays, config, definition) -> value, pullback: the op whose value and gradients the answer is, where it is
    one. For a contract whose right answer depends on what the subject drew: settle(case, outputs) -> the case with that
    in it, which answer then takes; and judge(case, outputs) -> {output: OutputVerdict}, which judges the draws as well.
    """

    name: str
    answer: Callable[..., dict[str, Array]]
    draws: Mapping[str, Callable[[Draw], tuple[dict[str, np.ndarray], Config]]]
    forward: Callable[..., tuple[Array, Pullback]] | None = None
    judge: Callable[[Case, Mapping[str, np.ndarray]], dict[str, OutputVerdict]] | None = None
    settle: Callable[[Case, Mapping[str, np.ndarray]], Case] | None = None

    def cases(self, dtype: str) -> list[Case]:
        """The contract's cases in one dtype."""
        cases = []
        for name, draw in self.draws.items():
            arrays, config = draw(Draw(f"{self.name}/{name}", dtype))
            cases.append(Case(self.name, f"{self.name}/{name}/{dtype}", dtype, config, arrays))
        return cases


def lora(r: int, alpha: float, use_rslora: bool = False, **more: Any) -> Config:
    """The configuration that every LoRA contract has, and more."""
    return {"r": r, "alpha": alpha, "use_rslora": use_rslora, **more}


def inputs(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """What the op takes of a case's arrays: all but the gradient that comes back."""
    return {name: array for name, array in arrays.items() if name != "dy"}


def gradients(grads: Mapping[str, Array]) -> dict[str, Array]:
    """{"x": dx} -> {"dx": dx}."""
    return {f"d{name}": grad for name, grad in grads.items()}
