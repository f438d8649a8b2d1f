"""Find where a loss or a gradient stops being finite: the first op with a result that is not, and its place.

The computation runs once more, with ops that check their inputs and results. This costs nothing until it is needed, and
it stops at the first value that is not finite. A sum outside the ops, for example on the residual path, is found at the
next op, in its input.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from .. import ops as reference
from ..models import PlacedOps, Pretrained
from ..ops import Pullback
from ..support.array import Array


def origin(run: Callable[[Any], object], model: Pretrained, adapter: Any = None) -> str:
    """Run once more with ops that check: ": first in glu at model.layers.3.mlp", or "" if all is finite this time.

    run(ops): the computation whose result was not finite.
    """
    trained = {} if adapter is None else adapter.parameters
    tensors = {name: partial(trained.get, name) for name in trained}
    tensors = {name: partial(model.base.__getitem__, name) for name in model.base} | tensors
    try:
        with np.errstate(all="ignore"):
            run(_CheckedOps(tensors))
    except _NotFiniteError as error:
        return f": first {error}"
    return ""


class _NotFiniteError(Exception):
    """The message names the first op whose result is not finite, and its place."""


class _CheckedOps(PlacedOps):
    """The ops at a place in a model; each may raise _NotFiniteError. tensors: a reader for each tensor of the model."""

    def __init__(self, tensors: Mapping[str, Callable[[], Array]], path: str = "") -> None:
        self._tensors, self._path = tensors, path

    def at(self, path: str) -> "_CheckedOps":
        return _CheckedOps(self._tensors, path)

    def __getattr__(self, name: str) -> Callable[..., tuple[Array, Pullback]]:
        return partial(self._call, name, getattr(reference, name))

    def _call(self, name: str, op: Callable[..., Any], *inputs: Any, **config: Any) -> tuple[Array, Pullback]:
        here = f"{name} at {self._path}" if self._path else name
        y, pullback = op(*inputs, **config)
        if not _are_finite([y]):
            self._check_own()
            raise _NotFiniteError(
                f"in {here}" if _are_finite([*inputs, *config.values()]) else f"in an input of {here}"
            )

        def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
            grads = pullback(dy, wrt=wrt)
            if not _are_finite(grads.values()):
                raise _NotFiniteError(f"in {'' if _are_finite([dy]) else 'the input of '}the pullback of {here}")
            return grads

        return y, Pullback(backward, y, pullback.inputs, pullback.frozen)

    def _check_own(self) -> None:
        """If a tensor of this place is not finite, blame the tensor and not the op."""
        for name, read in self._tensors.items():
            if self._path and name.startswith(f"{self._path}.") and not _are_finite([read()]):
                raise _NotFiniteError(f"in {name}, which is not finite itself")


def _are_finite(values: Iterable[Any]) -> bool:
    numbers = (v for v in values if hasattr(v, "dtype") and v.dtype.kind == "f")
    return all(bool(np.isfinite(v).all()) for v in numbers)
