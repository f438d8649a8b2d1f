"""What layers in JAX have in common: one is its arrays by path, and a function of them. The backward is jax.vjp's."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..case import Case
from .framework import Based, Pass, Tensor
from .shapes import Held
from .training import train_on
from .wanted import Wanted

Arrays = dict[str, Any]

# The cases are small and of many shapes: nearly all the time goes into compiling.
jax.config.update("jax_disable_most_optimizations", True)


@dataclass(frozen=True)
class How:
    """How a layer is called. mask: what dropout multiplies with. own_dropout: the layer draws its masks itself, from
    key. seen: takes the shapes of what dropout acts on."""

    training: bool
    key: Any
    mask: Any = None
    own_dropout: bool = False
    seen: list[tuple[int, ...]] = field(default_factory=list)


@dataclass
class JaxLayer:
    """module: the framework's own. arrays: its numbers, as NumPy has them. kinds: of arrays, as `Tensor` has them.
    call(module, arrays, x, how): y, with these arrays in the module."""

    module: Any
    arrays: Arrays
    kinds: Mapping[str, str]
    trained: frozenset[str]
    call: Callable[[Any, Arrays, Any, How], Any]


class JaxLayers:
    """Everything but what differs between Flax linen, Flax nnx and Equinox."""

    widest = "float64"

    def __init__(self) -> None:
        jax.config.update("jax_enable_x64", True)  # else there is no float64
        self.other_homes: Mapping[str, Mapping[str, str]] = {}
        self._draws = 0
        self._programs: dict[str, Any] = {}

    def with_base(self, path: JaxLayer, wanted: Wanted) -> tuple[JaxLayer, Based]:
        of_ids = wanted.kind == "embedding"
        shape = (wanted.in_, wanted.out) if of_ids else (wanted.out, wanted.in_)
        weight = np.random.default_rng(0).normal(size=shape)
        base = {"weight": weight, **({"bias": np.zeros(wanted.out)} if wanted.bias else {})}
        frozen = {f"base.{name}": a.astype(np.float32) for name, a in base.items()}

        def call(module: Any, arrays: Arrays, x: Any, how: How) -> Any:
            own = {name.removeprefix("path."): a for name, a in arrays.items() if name.startswith("path.")}
            W = arrays["base.weight"]
            return (W[x] if of_ids else x @ W.T) + arrays.get("base.bias", 0) + path.call(module, own, x, how)

        both = JaxLayer(
            path.module,
            {**frozen, **{f"path.{name}": a for name, a in path.arrays.items()}},
            {**dict.fromkeys(frozen, "parameter"), **{f"path.{name}": kind for name, kind in path.kinds.items()}},
            frozenset(f"path.{name}" for name in path.trained),
            call,
        )
        return both, Based(Held("base.weight"), "base.bias", "path")

    def tensors(self, layer: JaxLayer) -> dict[str, Tensor]:
        return {path: Tensor(a.shape, layer.kinds[path], path in layer.trained) for path, a in layer.arrays.items()}

    def read(self, layer: JaxLayer, path: str) -> np.ndarray:
        return layer.arrays[path].astype(np.float64)

    def write(self, layer: JaxLayer, path: str, array: np.ndarray) -> None:
        layer.arrays[path] = array.astype(layer.arrays[path].dtype)

    def cast(self, layer: JaxLayer, dtype: str) -> JaxLayer:
        to = jnp.dtype(dtype)
        arrays = {path: a.astype(to) if _is_floating(a) else a for path, a in layer.arrays.items()}
        return replace(layer, module=self.computing_in(layer.module, dtype), arrays=arrays)

    def computing_in(self, module: Any, dtype: str) -> Any:
        """The module, told a dtype wherever it keeps one."""
        return module

    def value(self, layer: JaxLayer, x: np.ndarray, own_dropout: bool = False) -> np.ndarray:
        return self._value(layer, x, self._how(own_dropout=own_dropout))

    def evaluate(self, layer: JaxLayer, x: np.ndarray) -> np.ndarray:
        return self._value(layer, x, self._how(training=False, own_dropout=True))

    def _value(self, layer: JaxLayer, x: np.ndarray, how: How) -> np.ndarray:
        def forward(arrays: Arrays, x: Any, key: Any) -> Any:
            return layer.call(layer.module, _as_jax(arrays), jnp.asarray(x), replace(how, key=key))

        if how.own_dropout:  # a case, and not one of many strengths to probe at the same sizes
            return np.array(self._compiled(forward, layer.arrays, x, how.key), dtype=np.float64)
        return np.array(forward(layer.arrays, x, how.key), dtype=np.float64)

    def differentiate(self, layer: JaxLayer, what: Pass) -> dict[str, Any]:
        wrt = {path: layer.arrays[path] for path in what.wrt.values()}
        others = {path: a for path, a in layer.arrays.items() if path not in wrt}

        def passes(wrt: Arrays, others: Arrays, x: Any, dy: Any, mask: Any, key: Any) -> tuple[Any, Arrays, Any]:
            how = How(True, key, mask, what.own_dropout)

            x = jnp.asarray(x)

            def forward(wrt: Arrays, *numbers: Any) -> Any:
                return layer.call(layer.module, {**_as_jax(others), **wrt}, numbers[0] if numbers else x, how)

            y, pull = jax.vjp(forward, _as_jax(wrt), *([x] if _is_floating(x) else []))  # ids have no gradient
            return y, *pull(jnp.asarray(dy, y.dtype))

        y, gradients, *dx = self._compiled(passes, wrt, others, what.x, what.dy, what.mask, self._how().key)
        of_x = {"dx": dx[0]} if dx else {}
        return {"y": y, **of_x, **{name: gradients[path] for name, path in what.wrt.items()}}

    def numbers(self, array: Any) -> np.ndarray:
        return np.asarray(array).astype(np.float64)

    def step(self, layer: JaxLayer, what: Pass) -> None:
        gradients = self.differentiate(layer, replace(what, wrt={path: path for path in layer.trained}))
        for path in layer.trained:
            layer.arrays[path] = layer.arrays[path] - 0.5 * np.asarray(gradients[path])

    def train(self, layer: JaxLayer, case: Case, paths: Sequence[str]) -> Any:
        optimizer = _optimizer(case.config)
        factors = {path: layer.arrays[path] for path in paths}
        others = {path: a for path, a in layer.arrays.items() if path not in paths}
        state = self._compiled(optimizer.init, factors)

        def loss(factors: Arrays, others: Arrays, x: Any, y: Any, key: Any) -> Any:
            arrays = {**_as_jax(others), **factors}
            return jnp.mean((layer.call(layer.module, arrays, jnp.asarray(x), How(True, key)) - y) ** 2)

        def loss_and_gradients(x: np.ndarray, y: np.ndarray) -> tuple[Any, list[Any]]:
            value, gradients = self._compiled(jax.value_and_grad(loss), factors, others, x, y, self._how().key)
            return value, [np.asarray(gradients[path]) for path in paths]

        def step(gradients: list[Any]) -> None:
            nonlocal state, factors
            updates, state = self._compiled(optimizer.update, dict(zip(paths, gradients, strict=True)), state, factors)
            factors = {path: factors[path] + np.asarray(updates[path]) for path in paths}

        losses = train_on(case, loss_and_gradients, step)
        layer.arrays.update(factors)
        return np.stack([np.asarray(loss) for loss in losses])

    def _compiled(self, function: Callable[..., Any], *given: Any) -> Any:
        """function(*given), compiled as a whole, and once however often it comes; step by step where that fails."""
        try:
            lowered = jax.jit(function).lower(*given)
        except Exception:  # what a stranger's code raises; it raises again if tracing is not the reason
            return function(*given)
        text = f"{lowered.args_info} {lowered.out_tree} {lowered.as_text()}"  # the program, and what it is called with
        if text not in self._programs:
            self._programs[text] = lowered.compile()
        return self._programs[text](*given)

    def saved(self, layer: JaxLayer) -> frozenset[str]:
        return frozenset(layer.arrays)

    def dropped(self, layer: JaxLayer, x: np.ndarray) -> list[tuple[int, ...]]:
        how = self._how()
        layer.call(layer.module, _as_jax(layer.arrays), jnp.asarray(x), how)
        return how.seen

    def _how(self, training: bool = True, own_dropout: bool = False) -> How:
        """With a key that was not used before."""
        self._draws += 1
        return How(training, jax.random.key(self._draws), None, own_dropout)


@contextmanager
def dropout_as(how: How, kind: Any) -> Iterator[None]:
    """The framework's Dropout, a class, multiplies with the mask, or does nothing, unless it is to draw its own."""
    if how.own_dropout:
        yield
        return

    def dropout(module: Any, x: Any, *others: Any, **more: Any) -> Any:
        how.seen.append(tuple(x.shape))
        return x if how.mask is None else x * how.mask

    before = kind.__call__
    kind.__call__ = dropout
    try:
        yield
    finally:
        kind.__call__ = before


def dtype_of(wanted: Wanted) -> Any:
    """JAX's dtype for what is wanted."""
    return jnp.dtype(wanted.dtype or "float32")


def as_numpy(arrays: Mapping[str, Any]) -> Arrays:
    """The same, as `JaxLayer` has them."""
    return {path: np.asarray(a) for path, a in arrays.items()}


def _as_jax(arrays: Mapping[str, Any]) -> Arrays:
    return {path: jnp.asarray(a) for path, a in arrays.items()}


def _is_floating(a: Any) -> bool:
    return bool(jnp.issubdtype(a.dtype, jnp.floating))


def _optimizer(config: Mapping[str, Any]) -> Any:
    """Optax's, since JAX has none."""
    try:
        import optax
    except ModuleNotFoundError:
        raise NotImplementedError("optax is not installed, and JAX has no optimiser of its own") from None
    if config["optimizer"] == "sgd":
        return optax.chain(optax.add_decayed_weights(config["weight_decay"]), optax.sgd(config["lr"]))
    b1, b2 = config["betas"]
    return optax.adamw(config["lr"], b1, b2, config["eps"], weight_decay=config["weight_decay"])
