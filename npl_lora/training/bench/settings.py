"""What is measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SIDES = {"npl-lora": "own_side", "torch": "torch_side"}  # and which file a child imports for it
ALPHA, LR, CLIP = 16, 2e-4, 1.0  # as npl-lora train has them unless told otherwise


class BenchError(ValueError):
    """There is nothing to measure, and why. One sentence."""


@dataclass(frozen=True)
class Settings:
    """model: a folder or a .gguf file. batch, length: of the random tokens. target_modules: names, or "all-linear", or
    None for the model's usual ones. coded: the weights stay as they are stored. recompute: one block's input is kept
    for the backward, in place of all that is in it. steps: how many are counted. seed: of tokens and adapter.
    vocabulary: tokens are below it; None: the model's. Raises BenchError."""

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
        """(B, T), of any step, the same on every side."""
        return np.random.default_rng((self.seed, step)).integers(0, vocabulary, (self.batch, self.length))
