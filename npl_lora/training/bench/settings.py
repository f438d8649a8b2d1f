"""The settings of a measurement."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SIDES = {"npl-lora": "own_side", "torch": "torch_side"}  # the module that the worker imports for each side
ALPHA, LR, CLIP = 16, 2e-4, 1.0  # the defaults of npl-lora train


class BenchError(ValueError):
    """A measurement is not possible. The message is one sentence and says why."""


@dataclass(frozen=True)
class Settings:
    """model: a folder or a .gguf file. batch, length: the shape of the random tokens. target_modules: names,
    "all-linear", or None for the model's usual ones. coded: keep the weights in their stored format. recompute: keep
    only each block's input for the backward pass, and recompute the rest. steps: how many are counted. seed: of the
    tokens and the adapter. vocabulary: tokens are below it; None: the model's. Raises BenchError."""

    model: str
    batch: int = 2
    length: int = 512
    rank: int = 8
    target_modules: str | Sequence[str] | None = None
    coded: bool = False
    recompute: bool = False
    steps: int = 3
    seed: int = 0
    vocabulary: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("length", 2), ("rank", 1), ("steps", 1)):
            if getattr(self, name) < least:
                raise BenchError(f"{name} is {getattr(self, name)}, expected at least {least}")

    def tokens(self, step: int, vocabulary: int) -> np.ndarray:
        """The tokens (B, T) of a step, the same on every side."""
        return np.random.default_rng((self.seed, step)).integers(0, vocabulary, (self.batch, self.length))
