"""The interface of an adapter: the arrays that training changes, and what a module computes with them."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from .. import ops as reference
from ..ops import Pullback
from ..support.array import Array
from ._modules import Module
from ._tokens import Tokens


class Adapter(ABC):
    """parameters: {name: array}, all that training changes. A name that the model has too replaces the model's tensor.

    frozen: {name: array}, tensors that stand in place of the model's and are not trained.
    places: the paths of the modules that the adapter changes by more than that.
    dropout: the probability of dropout on the input of those modules.
    unties: whether an output layer that shares the embedding's table keeps the base model's table when the embedding is
        trained.

    The methods here are those of an adapter without places.
    """

    frozen: Mapping[str, np.ndarray] = MappingProxyType({})
    places: Collection[str] = ()
    dropout: float = 0.0
    unties: ClassVar[bool]

    def __init__(self, parameters: Mapping[str, np.ndarray]) -> None:
        self.parameters = dict(parameters)

    @abstractmethod
    def with_parameters(self, parameters: Mapping[str, np.ndarray]) -> "Adapter":
        """The same adapter with other values."""

    def linear(
        self, path: str, x: Array, W: Array, b: Array | None, mask: Array | None = None, ops: Any = reference
    ) -> tuple[Array, Pullback]:
        """y (..., out) of the linear layer at this path. x (..., in), W (out, in), b (out,), mask (..., in).

        The pullback names a parameter's gradient by its full name, and the others "x", "W" and "b".
        """
        return ops.linear(x, W, b)

    def embedding(
        self, path: str, ids: Array, E: Array, padding_idx: int | None = None, ops: Any = reference
    ) -> tuple[Array, Pullback]:
        """y (..., D), rows of the embedding at this path. ids (...), E (V, D). Gradients are named as in `linear`."""
        return ops.embedding(ids, E, padding_idx=padding_idx)

    def tokens(self, path: str) -> Tokens | None:
        """Which rows of the table at this path are trained, if only some are."""
        return None

    def merged(self, path: str, W: Array, module: Module, sign: float = 1.0) -> Array:
        """The weight or table at this path with the adapter merged in, stored as W is. sign = -1 takes it out again."""
        return W

    def merged_bias(self, path: str, b: Array | None, sign: float = 1.0) -> Array | None:
        """The bias of the linear layer at this path with the adapter merged in, or None if it has none."""
        return b
