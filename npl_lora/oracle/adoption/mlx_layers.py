"""mlx.nn.Module: how to make, read, fill and call layers. On the CPU, which alone has float64."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from ..case import Case
from .calls import first, more, no_padding_idx
from .constructor import Constructor
from .framework import Based, Pass, Tensor
from .shapes import Held
from .training import train_on
from .wanted import NotAdoptedError, Wanted

_Forward = Callable[..., mx.array]


class WithBase(nn.Module):
    """A low-rank path, added to MLX's own layer."""

    def __init__(self, path: nn.Module, wanted: Wanted) -> None:
        super().__init__()
        self.base = _base(wanted)
        self.base.freeze()
        self.path = path

    def __call__(self, x: mx.array) -> mx.array:
        return self.base(x) + _call(self.path, x)


class MLXLayers:
    """The framework MLX."""

    name = "mlx"
    frozen = "freeze() was called on them"
    widest = "float64"
    parts: Mapping[str, Callable[[Wanted], Any]]
    other_homes: Mapping[str, Mapping[str, str]]

    def __init__(self) -> None:
        mx.set_default_device(mx.cpu)
        self.other_homes = {}
        self.parts = {
            "base": _base,
            "weight": lambda wanted: _base(wanted).weight,
            "bias tensor": lambda wanted: mx.zeros(wanted.out),
            "A": lambda wanted: nn.Linear(wanted.in_, wanted.rank, bias=False),
            "B": lambda wanted: nn.Linear(wanted.rank, wanted.out, bias=False),
            "dtype": lambda wanted: getattr(mx, wanted.dtype or "float32"),
            "device": lambda wanted: mx.cpu,
            "key": lambda wanted: mx.random.key(0),
        }

    def finish(self, layer: Any, wanted: Wanted, constructor: Constructor) -> Any:
        if not isinstance(layer, nn.Module):
            raise NotAdoptedError(f"{constructor.name} built a {type(layer).__name__}, expected an mlx.nn.Module")
        return layer

    def with_base(self, path: Any, wanted: Wanted) -> tuple[Any, Based]:
        return WithBase(path, wanted), Based(Held("base.weight"), "base.bias", "path")

    def tensors(self, layer: Any) -> dict[str, Tensor]:
        known, trained = _paths(layer.parameters()), _paths(layer.trainable_parameters())
        kinds = {path: "parameter" if path in known else "plain" for path in _arrays(layer)}
        return {path: Tensor(tuple(a.shape), kinds[path], path in trained) for path, a in _arrays(layer).items()}

    def read(self, layer: Any, path: str) -> np.ndarray:
        return _numbers(_arrays(layer)[path])

    def write(self, layer: Any, path: str, array: np.ndarray) -> None:
        _put(layer, {path: _array(array).astype(_arrays(layer)[path].dtype)})

    def cast(self, layer: Any, dtype: str) -> Any:
        floating = {path: a for path, a in _arrays(layer).items() if mx.issubdtype(a.dtype, mx.floating)}
        _put(layer, {path: a.astype(getattr(mx, dtype)) for path, a in floating.items()})
        return layer

    def value(self, layer: Any, x: np.ndarray, own_dropout: bool = False) -> np.ndarray:
        layer.train()
        with nullcontext() if own_dropout else _dropout_as(None):
            return _numbers(_call(layer, _array(x)))

    def evaluate(self, layer: Any, x: np.ndarray) -> np.ndarray:
        layer.eval()
        return _numbers(_call(layer, _array(x), training=False))

    def differentiate(self, layer: Any, what: Pass) -> dict[str, Any]:
        return self._differentiated(layer, what, lambda forward: forward)

    def checkpointed(self, layer: Any, what: Pass) -> dict[str, Any]:
        """The same, with everything computed again for the backward."""
        return self._differentiated(layer, what, mx.checkpoint)

    def called_twice(self, layer: Any, what: Pass, other: np.ndarray) -> dict[str, Any]:
        """The same for the sum of two calls."""
        second = _array(other)
        return self._differentiated(
            layer, what, lambda forward: lambda *given: forward(*given) + forward(second, *given[1:])
        )

    def after_call(self, layer: Any, x: np.ndarray) -> np.ndarray:
        """x after a call in training: what writes into an array of MLX writes into its caller's."""
        given = _array(x)
        layer.train()
        with _dropout_as(None):
            _call(layer, given)
        return _numbers(given)

    def numbers(self, array: Any) -> np.ndarray:
        return _numbers(array)

    def _differentiated(self, layer: Any, what: Pass, around: Callable[[_Forward], _Forward]) -> dict[str, Any]:
        layer.train()
        x, before = _array(what.x), _arrays(layer)
        ids = not mx.issubdtype(x.dtype, mx.floating)

        def forward(*given: mx.array) -> mx.array:
            _put(layer, dict(zip(what.wrt.values(), given if ids else given[1:], strict=True)))
            return _call(layer, x if ids else given[0])

        inputs = [*([] if ids else [x]), *(before[path] for path in what.wrt.values())]
        with nullcontext() if what.own_dropout else _dropout_as(what.mask):
            (y,), gradients = mx.vjp(around(forward), inputs, [_array(what.dy)])
        _put(layer, {path: before[path] for path in what.wrt.values()})
        return {"y": y, **dict(zip([*([] if ids else ["dx"]), *what.wrt], gradients, strict=True))}

    def step(self, layer: Any, what: Pass) -> None:
        layer.train()
        x, dy = _array(what.x), _array(what.dy)
        with _dropout_as(None):
            _, gradients = nn.value_and_grad(layer, lambda: (_call(layer, x) * dy).sum())()
        optimizers.SGD(0.5).update(layer, gradients)

    def train(self, layer: Any, case: Case, paths: Sequence[str]) -> Any:
        layer.train()
        if case.config["optimizer"] == "adamw" and case.dtype == "float64":
            raise NotImplementedError("MLX's AdamW corrects its bias in float32")
        optimizer = _optimizer(case.config)

        def loss(x: mx.array, y: mx.array, *factors: mx.array) -> mx.array:
            _put(layer, dict(zip(paths, factors, strict=True)))
            return nn.losses.mse_loss(_call(layer, x), y)

        def loss_and_gradients(x: np.ndarray, y: np.ndarray) -> tuple[mx.array, list[mx.array]]:
            before = [_arrays(layer)[path] for path in paths]
            found = mx.value_and_grad(loss, argnums=range(2, 2 + len(paths)))(_array(x), _array(y), *before)
            _put(layer, dict(zip(paths, before, strict=True)))
            return found

        def step(gradients: list[mx.array]) -> None:
            there = _arrays(layer)
            before = {path: there[path] for path in paths}
            _put(layer, optimizer.apply_gradients(dict(zip(paths, gradients, strict=True)), before))

        with _dropout_as(None):
            return mx.stack(train_on(case, loss_and_gradients, step))

    def saved(self, layer: Any) -> frozenset[str]:
        return _paths(layer.parameters())

    def dropped(self, layer: Any, x: np.ndarray) -> list[tuple[int, ...]]:
        layer.train()
        seen: list[tuple[int, ...]] = []
        with _dropout_as(None, seen):
            _call(layer, _array(x))
        return seen


@contextmanager
def _dropout_as(mask: np.ndarray | None, seen: list[tuple[int, ...]] | None = None) -> Iterator[None]:
    """nn.Dropout multiplies with this mask, or does nothing."""
    factor = None if mask is None else _array(mask)

    def dropout(module: nn.Dropout, x: mx.array) -> mx.array:
        if seen is not None:
            seen.append(tuple(x.shape))
        return x if factor is None else x * factor

    before = nn.Dropout.__call__
    nn.Dropout.__call__ = dropout
    try:
        yield
    finally:
        nn.Dropout.__call__ = before


def _optimizer(config: Mapping[str, Any]) -> optimizers.Optimizer:
    if config["optimizer"] == "sgd":
        return optimizers.SGD(config["lr"], weight_decay=config["weight_decay"])
    settings = {name: config[name] for name in ("betas", "eps", "weight_decay")}
    return optimizers.AdamW(config["lr"], bias_correction=True, **settings)


def _base(wanted: Wanted) -> nn.Module:
    """MLX's own layer."""
    if wanted.kind == "embedding":
        no_padding_idx(wanted)
        return nn.Embedding(wanted.in_, wanted.out)
    return nn.Linear(wanted.in_, wanted.out, bias=wanted.bias)


def _call(layer: nn.Module, x: mx.array, training: bool = True) -> mx.array:
    return first(layer(x, **more(layer.__call__, training)), mx.array)


def _arrays(layer: nn.Module) -> dict[str, mx.array]:
    """Every array by its path, in the order in which they were set; also those that are no parameters to MLX."""
    return {path: value for path, value in tree_flatten(layer) if isinstance(value, mx.array)}


def _paths(tree: Any) -> frozenset[str]:
    return frozenset(path for path, _ in tree_flatten(tree))


def _put(layer: nn.Module, arrays: Mapping[str, mx.array]) -> None:
    layer.update(tree_unflatten(list(arrays.items())))


def _numbers(a: mx.array) -> np.ndarray:
    return np.array(a.astype(mx.float64))


def _array(array: np.ndarray) -> mx.array:
    """The same numbers in the same dtype. (MLX takes float64 and bfloat16 from NumPy only if told so.)"""
    if array.dtype.kind in "biu":
        return mx.array(array)
    if array.dtype == np.float64:
        return mx.array(array, dtype=mx.float64)
    return mx.array(array.astype(np.float32)).astype(getattr(mx, array.dtype.name))
