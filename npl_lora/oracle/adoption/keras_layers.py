"""keras.layers.Layer: how to make, read, fill and call layers. On Keras' torch or JAX backend."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import keras
import numpy as np

from ..case import Case
from ..libraries.known.keras import EPSILON
from .calls import first, first_call_raised, more, no_padding_idx
from .constructor import Constructor
from .framework import Based, Pass, Tensor
from .shapes import Held
from .training import train_on
from .wanted import NotAdoptedError, Wanted

_Loss = Callable[[Any], Any]  # of y


class WithBase(keras.layers.Layer):
    """A low-rank path, added to Keras' own layer."""

    def __init__(self, path: Any, wanted: Wanted) -> None:
        super().__init__()
        self.base = _base(wanted)
        self.base.trainable = False
        self.low_rank = path

    def call(self, x: Any, training: bool = False) -> Any:
        return self.base(x) + _call(self.low_rank, x, training)


class KerasLayers:
    """The framework Keras."""

    name = "Keras"
    frozen = "trainable is False"
    widest = "float32"
    parts: Mapping[str, Callable[[Wanted], Any]]
    other_homes: Mapping[str, Mapping[str, str]]

    def __init__(self) -> None:
        if keras.backend.backend() not in _GRADIENTS:
            raise NotAdoptedError(f"Keras runs on {keras.backend.backend()} here: set KERAS_BACKEND=torch or jax")
        self.other_homes = {}
        self.parts = {
            "base": _base,
            "weight": lambda wanted: _base(wanted).kernel,
            "bias tensor": lambda wanted: keras.Variable(np.zeros(wanted.out, np.float32)),
            "A": lambda wanted: keras.layers.Dense(wanted.rank, use_bias=False),
            "B": lambda wanted: keras.layers.Dense(wanted.out, use_bias=False),
            "dtype": lambda wanted: wanted.dtype or "float32",
            "device": lambda wanted: None,
            "key": lambda wanted: keras.random.SeedGenerator(0),
        }

    def finish(self, layer: Any, wanted: Wanted, constructor: Constructor) -> Any:
        """Called once, which builds it and every layer inside."""
        if not isinstance(layer, keras.layers.Layer):
            raise NotAdoptedError(f"{constructor.name} built a {type(layer).__name__}, expected a keras.layers.Layer")
        try:
            _call(layer, _first_input(wanted), training=False)
        except NotAdoptedError:
            raise
        except Exception as error:  # a stranger's call may raise anything
            raise NotAdoptedError(first_call_raised(error, wanted)) from None
        return layer

    def with_base(self, path: Any, wanted: Wanted) -> tuple[Any, Based]:
        both = self.finish(WithBase(path, wanted), wanted, Constructor(WithBase, {}))
        W = Held("base.embeddings") if wanted.kind == "embedding" else Held("base.kernel", transposed=True)
        return both, Based(W, "base.bias", "low_rank")

    def tensors(self, layer: Any) -> dict[str, Tensor]:
        known, trained = _ids(layer.variables), _ids(layer.trainable_variables)
        return {
            path: Tensor(tuple(v.shape), "parameter" if id(v) in known else "plain", id(v) in trained)
            for path, v in _variables(layer).items()
        }

    def read(self, layer: Any, path: str) -> np.ndarray:
        return _numbers(_variables(layer)[path])

    def write(self, layer: Any, path: str, array: np.ndarray) -> None:
        variable = _variables(layer)[path]
        variable.assign(keras.ops.cast(_array(array), variable.dtype))

    def cast(self, layer: Any, dtype: str) -> Any:
        if dtype == "float64":
            raise NotImplementedError("Keras' operations compute float64 in float32")
        for variable in _variables(layer).values():
            if "float" in variable.dtype:
                _recast(variable, dtype)
        for part in layer._flatten_layers():
            part.dtype_policy = dtype
        return layer

    def value(self, layer: Any, x: np.ndarray, own_dropout: bool = False) -> np.ndarray:
        _needs_a_batch(x)
        with nullcontext() if own_dropout else _dropout_as(None):
            return _numbers(_call(layer, _array(x), training=True))

    def evaluate(self, layer: Any, x: np.ndarray) -> np.ndarray:
        _needs_a_batch(x)
        return _numbers(_call(layer, _array(x), training=False))

    def differentiate(self, layer: Any, what: Pass) -> dict[str, Any]:
        return self._differentiated(layer, what, lambda call: call)

    def checkpointed(self, layer: Any, what: Pass) -> dict[str, Any]:
        """The same, with everything computed again for the backward."""
        return self._differentiated(layer, what, keras.remat)

    def called_twice(self, layer: Any, what: Pass, other: np.ndarray) -> dict[str, Any]:
        """The same for the sum of two calls."""
        second = _array(other)
        return self._differentiated(layer, what, lambda call: lambda x: call(x) + call(second))

    def after_call(self, layer: Any, x: np.ndarray) -> np.ndarray:
        """x after a call in training: torch's tensors can be written into."""
        given = _array(x)
        with _dropout_as(None):
            _call(layer, given, training=True)
        return _numbers(given)

    def mixed(self, build: Callable[[], Any]) -> Any:
        """What is built under Keras' policy of mixed precision."""
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            return build()
        finally:
            keras.config.set_dtype_policy(before)

    def numbers(self, array: Any) -> np.ndarray:
        return _numbers(array)

    def _differentiated(self, layer: Any, what: Pass, around: Callable[[_Loss], _Loss]) -> dict[str, Any]:
        _needs_a_batch(what.x)
        there, dy = _variables(layer), _array(what.dy)
        with nullcontext() if what.own_dropout else _dropout_as(what.mask):
            y, dx, gradients = _gradients(
                around(lambda x: _call(layer, x, training=True)),
                lambda y: keras.ops.sum(y * dy),
                _array(what.x),
                [there[path] for path in what.wrt.values()],
            )
        return {"y": y, **({} if dx is None else {"dx": dx}), **dict(zip(what.wrt, gradients, strict=True))}

    def step(self, layer: Any, what: Pass) -> None:
        trained = {path: path for path, tensor in self.tensors(layer).items() if tensor.trained}
        gradients = self.differentiate(layer, Pass(what.x, what.dy, trained))
        variables = [_variables(layer)[path] for path in trained]
        keras.optimizers.SGD(0.5).apply([gradients[path] for path in trained], variables)

    def train(self, layer: Any, case: Case, paths: Sequence[str]) -> Any:
        variables = [_variables(layer)[path] for path in paths]
        optimizer = _optimizer(case.config)

        def loss_and_gradients(x: np.ndarray, y: np.ndarray) -> tuple[Any, list[Any]]:
            right = _array(y)
            loss: _Loss = lambda y: keras.ops.mean(keras.ops.square(y - right))  # noqa: E731
            got, _, gradients = _gradients(lambda x: _call(layer, x, training=True), loss, _array(x), variables)
            return loss(got), gradients

        with _dropout_as(None):
            losses = train_on(case, loss_and_gradients, lambda gradients: optimizer.apply(gradients, variables))
        return keras.ops.stack(losses)

    def saved(self, layer: Any) -> frozenset[str]:
        known = _ids(layer.variables)
        return frozenset(path for path, v in _variables(layer).items() if id(v) in known)

    def dropped(self, layer: Any, x: np.ndarray) -> list[tuple[int, ...]]:
        seen: list[tuple[int, ...]] = []
        with _dropout_as(None, seen):
            _call(layer, _array(x), training=True)
        return seen


@contextmanager
def _dropout_as(mask: np.ndarray | None, seen: list[tuple[int, ...]] | None = None) -> Iterator[None]:
    """keras.layers.Dropout multiplies with this mask, or does nothing."""
    factor = None if mask is None else _array(mask)

    def call(layer: Any, inputs: Any, training: bool = False) -> Any:
        if not training:
            return inputs
        if seen is not None:
            seen.append(tuple(inputs.shape))
        return inputs if factor is None else inputs * factor

    before = keras.layers.Dropout.call
    keras.layers.Dropout.call = call
    try:
        yield
    finally:
        keras.layers.Dropout.call = before


def _torch_gradients(call: _Loss, loss: _Loss, x: Any, variables: list[Any]) -> tuple[Any, Any, list[Any]]:
    """y, the gradient by x unless that is ids, and those by the variables."""
    import torch

    x = x.detach()
    if x.is_floating_point():
        x.requires_grad_()
    leaves = [v.value.detach().requires_grad_() for v in variables]
    held = [v._value for v in variables]
    for v, leaf in zip(variables, leaves, strict=True):
        v._value = leaf
    try:
        y = call(x)
        wrt = [*([x] if x.requires_grad else []), *leaves]
        found = list(torch.autograd.grad(loss(y), wrt, allow_unused=True, materialize_grads=True))
    finally:
        for v, before in zip(variables, held, strict=True):
            v._value = before
    return y.detach(), found.pop(0) if x.requires_grad else None, found


def _jax_gradients(call: _Loss, loss: _Loss, x: Any, variables: list[Any]) -> tuple[Any, Any, list[Any]]:
    """The same in JAX."""
    import jax

    def forward(x: Any, values: list[Any]) -> tuple[Any, Any]:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            y = call(x)
        return loss(y), y

    (_, y), (dx, found) = jax.value_and_grad(forward, argnums=(0, 1), has_aux=True, allow_int=True)(
        x, [v.value for v in variables]
    )
    return y, dx if dx.dtype == x.dtype else None, found


_GRADIENTS: Mapping[str, Callable[..., tuple[Any, Any, list[Any]]]] = {
    "torch": _torch_gradients,
    "jax": _jax_gradients,
}


def _gradients(call: _Loss, loss: _Loss, x: Any, variables: list[Any]) -> tuple[Any, Any, list[Any]]:
    return _GRADIENTS[keras.backend.backend()](call, loss, x, variables)


def _optimizer(config: Mapping[str, Any]) -> Any:
    if config["optimizer"] == "sgd":
        return keras.optimizers.SGD(config["lr"], weight_decay=config["weight_decay"])
    raise NotImplementedError(EPSILON.sentence)


def _base(wanted: Wanted) -> Any:
    """Keras' own layer."""
    if wanted.kind == "embedding":
        no_padding_idx(wanted)
        layer = keras.layers.Embedding(wanted.in_, wanted.out)
    else:
        layer = keras.layers.Dense(wanted.out, use_bias=wanted.bias)
    layer.build((None, wanted.in_))
    return layer


def _first_input(wanted: Wanted) -> Any:
    return keras.ops.zeros((1, 1), "int32") if wanted.kind == "embedding" else keras.ops.zeros((1, wanted.in_))


def _call(layer: Any, x: Any, training: bool) -> Any:
    return first(layer(x, **more(layer.call, training)), type(x))


def _variables(layer: Any, prefix: str = "") -> dict[str, Any]:
    """Every variable by the attributes that lead to it, since Keras counts up its own paths from layer to layer."""
    found: dict[str, Any] = {}
    for name, value in [*vars(layer).items(), *getattr(layer, "_modules", {}).items()]:
        path = f"{prefix}{name.lstrip('_')}"
        if isinstance(value, keras.Variable):
            found.setdefault(path, value)
        elif isinstance(value, keras.layers.Layer):
            found.update(_variables(value, f"{path}."))
    return {path: value for path, value in found.items() if not path.endswith("seed_generator_state")}


def _recast(variable: Any, dtype: str) -> None:
    """Give a variable another dtype, which Keras has no word for."""
    value = keras.ops.cast(variable.value, dtype)
    if hasattr(variable._value, "data"):  # a torch parameter, which stays the same object
        variable._value.data = value.detach()
    else:
        variable._value = value
    variable._dtype = dtype


def _needs_a_batch(x: np.ndarray) -> None:
    if x.ndim < 2 and x.dtype.kind not in "iu":
        raise NotImplementedError("takes no x of one axis, as no Keras layer does")


def _ids(variables: Sequence[Any]) -> set[int]:
    return {id(variable) for variable in variables}


def _numbers(x: Any) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(keras.ops.cast(x, "float32")), dtype=np.float64)


def _array(array: np.ndarray) -> Any:
    """The same numbers in the same dtype. (torch takes bfloat16 from NumPy only through float32.)"""
    if array.dtype.name == "bfloat16":
        return keras.ops.cast(keras.ops.convert_to_tensor(array.astype(np.float32)), "bfloat16")
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    return keras.ops.convert_to_tensor(array, dtype=array.dtype.name)
