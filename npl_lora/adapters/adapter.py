"""What every adapter has, whatever it trains: its arrays, where it sits in a model, and what a module computes with it.

LoRA trains factors beside frozen weights. Full fine-tuning trains the weights themselves, and sits nowhere. A model and
a training step take either.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np

from .. import ops as reference
from ..ops import Pullback
from ..ops.compose import renamed
from ..support.array import Array
from .modules import Module


@dataclass(frozen=True)
class Factors:
    """The names of A and B of one module, and the scale of their product."""

    A: str
    B: str
    scale: float


class Adapter(ABC):
    """parameters: {name: array}, what training changes. places: {path: Factors}, where A and B sit.

    dropout: the probability on the input of the low-rank path. unties: a head that shares its table with an
    embedding keeps the base model's table, whatever is trained in its place.
    """

    dropout: float = 0.0
    unties: bool

    def __init__(self, parameters: dict[str, np.ndarray], places: dict[str, Factors]) -> None:
        self.parameters = parameters
        self.places = places

    @abstractmethod
    def with_parameters(self, parameters: Mapping[str, np.ndarray]) -> Self:
        """The same adapter with other values."""

    def linear(
        self, path: str, x: Array, W: Array, b: Array | None, mask: Array | None = None, ops: Any = reference
    ) -> tuple[Array, Pullback]:
        """What the linear layer at this path computes; ops.linear where the adapter is not. Gradients are named by
        the parameters' full names, and "x", "W" and "b"."""
        place = self.places.get(path)
        if place is None:
            return ops.linear(x, W, b)
        A, B = self.parameters[place.A], self.parameters[place.B]
        layer = partial(ops.lora_linear, W=W, A=A, B=B, scale=place.scale, b=b, mask=mask)
        return renamed(layer, {"A": place.A, "B": place.B})(x)

    def embedding(
        self, path: str, ids: Array, E: Array, padding_idx: int | None = None, ops: Any = reference
    ) -> tuple[Array, Pullback]:
        """What the embedding at this path looks up."""
        place = self.places.get(path)
        if place is None:
            return ops.embedding(ids, E, padding_idx=padding_idx)
        A, B = self.parameters[place.A], self.parameters[place.B]
        table = partial(ops.lora_embedding, E=E, A=A, B=B, scale=place.scale, padding_idx=padding_idx)
        return renamed(table, {"A": place.A, "B": place.B})(ids)

    def merged(self, path: str, W: Array, module: Module, sign: float = 1.0) -> Array:
        """W + s B A for the weight or the table at this path, as it is stored; with sign = -1, what was W before."""
        place = self.places.get(path)
        if place is None:
            return W
        A, B = self.parameters[place.A], self.parameters[place.B]
        turned = module.transposed or module.kind == "embedding"  # the table is (V, D) = (in, out)
        return reference.merge(W, A, B, scale=sign * place.scale, fan_in_fan_out=turned)[0]
