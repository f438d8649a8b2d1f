"""What adoption needs of a framework: how to make, read, fill and call its layers. One file a framework."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..case import Case
from .constructor import Constructor
from .shapes import Held
from .wanted import Wanted


@dataclass(frozen=True)
class Tensor:
    """A tensor that hangs on a layer. kind: "parameter", "buffer", or "plain" for one that the framework knows nothing
    of. trained: whether an optimiser would change it."""

    shape: tuple[int, ...]
    kind: str
    trained: bool


@dataclass(frozen=True)
class Pass:
    """What one forward and backward needs. x: numbers, or ids. wrt: {output's name: path of a tensor}. mask: what
    dropout multiplies with; None for no dropout. own_dropout: the layer draws its masks itself."""

    x: np.ndarray
    dy: np.ndarray
    wrt: Mapping[str, str]
    mask: np.ndarray | None = None
    own_dropout: bool = False


@dataclass(frozen=True)
class Based:
    """Where a low-rank path and the linear layer beside it keep their tensors. path: before each path of the former's
    own."""

    W: Held
    bias: str
    path: str


class Framework(Protocol):
    """name: what it is called in sentences. parts: how it makes what a constructor is handed, by role. other_homes:
    what a layer can be built with besides its defaults (another dtype, another device), and the words for it. frozen:
    what makes a parameter one that is not trained. widest: the dtype to probe in."""

    name: str
    parts: Mapping[str, Callable[[Wanted], Any]]
    other_homes: Mapping[str, Mapping[str, str]]
    frozen: str
    widest: str

    def finish(self, layer: Any, wanted: Wanted, constructor: Constructor) -> Any:
        """The layer after what must still be called once it is constructed: a build, or the set-up of its adapter."""
        ...

    def with_base(self, path: Any, wanted: Wanted) -> tuple[Any, Based]:
        """A layer that adds a low-rank path to a linear layer."""
        ...

    def tensors(self, layer: Any) -> dict[str, Tensor]:
        """Every tensor by its path."""
        ...

    def read(self, layer: Any, path: str) -> np.ndarray:
        """A tensor's numbers in float64."""
        ...

    def write(self, layer: Any, path: str, array: np.ndarray) -> None:
        """Put numbers into a tensor."""
        ...

    def cast(self, layer: Any, dtype: str) -> Any:
        """The layer in a dtype of this name. Raises NotImplementedError if the framework lacks it."""
        ...

    def value(self, layer: Any, x: np.ndarray, own_dropout: bool = False) -> np.ndarray:
        """y in float64 as it is in training, without dropout, or with the layer's own."""
        ...

    def evaluate(self, layer: Any, x: np.ndarray) -> np.ndarray:
        """y in float64 as it is in evaluation, with the layer's own dropout."""
        ...

    def differentiate(self, layer: Any, what: Pass) -> dict[str, Any]:
        """In training mode: y, dx where x is no ids, and the gradients that were asked for; the framework's arrays."""
        ...

    def numbers(self, array: Any) -> np.ndarray:
        """One of these arrays in float64."""
        ...

    def step(self, layer: Any, what: Pass) -> None:
        """One step of plain gradient descent on everything that is trained."""
        ...

    def train(self, layer: Any, case: Case, paths: Sequence[str]) -> Any:
        """The losses of a train_steps case, whose steps the framework's own optimiser takes on these tensors."""
        ...

    def saved(self, layer: Any) -> frozenset[str]:
        """The paths of the tensors that are saved with the layer."""
        ...

    def dropped(self, layer: Any, x: np.ndarray) -> list[tuple[int, ...]]:
        """The shapes of what dropout acts on in a forward pass in training mode."""
        ...
