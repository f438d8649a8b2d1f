"""What one clean call of a layer outside torch cannot show. Each framework is asked what can go wrong in it: in JAX a
layer keeps nothing and an array is never overwritten, so only evaluation is asked there.

A layer is compared with itself in float32, so nothing is said of the numbers themselves.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from .framework import Pass
from .kinds import EMBEDDING
from .layer import Layer
from .wanted import NotAdoptedError

_CLOSE = 1e-4  # relative to the largest number, in float32
_MIXED = 0.05  # bfloat16 has eight bits

Numbers = dict[str, np.ndarray]


def states(layer: Layer) -> dict[str, Callable[[Layer], Iterator[str]]]:
    """{what is asked: the function that yields what is wrong}."""
    asked: dict[str, Callable[[Layer], Iterator[str]]] = {"train-and-eval": _train_and_eval}
    if layer.kind is EMBEDDING:
        return asked
    framework = layer.framework
    if (after_call := getattr(framework, "after_call", None)) is not None:
        asked["inputs-kept"] = partial(_inputs_kept, after_call)
    if (called_twice := getattr(framework, "called_twice", None)) is not None:
        asked["called-twice"] = partial(_called_twice, called_twice)
    if (checkpointed := getattr(framework, "checkpointed", None)) is not None:
        asked["checkpointed"] = partial(_checkpointed, checkpointed)
    if (mixed := getattr(framework, "mixed", None)) is not None:
        asked["autocast"] = partial(_mixed, mixed)
    return asked


def _train_and_eval(layer: Layer) -> Iterator[str]:
    """After a call in training and one in evaluation everything is as it was; both give the same y."""
    built, what = _filled(layer), _pass(layer)
    right = _passed(layer, built, what)
    if not _same(layer.framework.evaluate(built, what.x), right["y"]):
        yield "y in evaluation differs from y in training without dropout"
    if wrong := _differing(_passed(layer, built, what), right):
        yield f"after training and evaluation in turn, {_are(wrong)} no longer the same"


def _inputs_kept(after_call: Callable[[Any, np.ndarray], np.ndarray], layer: Layer) -> Iterator[str]:
    """x keeps its numbers: another branch may use it."""
    x = _pass(layer).x
    if not np.array_equal(after_call(_filled(layer), x), x):
        yield "x is overwritten: a branch that uses it after the call gets other numbers"


def _called_twice(called_twice: Callable[[Any, Pass, np.ndarray], Any], layer: Layer) -> Iterator[str]:
    """Of the sum of two calls, y and the gradients of A and B are the sums of both."""
    one, other = _pass(layer, 0), _pass(layer, 1)
    first = _passed(layer, _filled(layer), one)
    second = _passed(layer, _filled(layer), replace(other, dy=one.dy))
    right = {name: first[name] + (0 if name == "dx" else second[name]) for name in first}
    if wrong := _differing(_numbers(layer, called_twice(_filled(layer), one, other.x)), right):
        yield f"called twice in one graph, {_are(wrong)} wrong"


def _checkpointed(checkpointed: Callable[[Any, Pass], Any], layer: Layer) -> Iterator[str]:
    """Under gradient checkpointing the gradients are the same."""
    what = _pass(layer)
    got = _numbers(layer, checkpointed(_filled(layer), what))
    if wrong := _differing(got, _passed(layer, _filled(layer), what)):
        yield f"under gradient checkpointing, {_are(wrong)} wrong"


def _mixed(mixed: Callable[[Callable[[], Any]], Any], layer: Layer) -> Iterator[str]:
    """Built under a policy of mixed precision, y and the gradients agree to what bfloat16 has."""
    what, single = _pass(layer), _filled(layer)
    try:
        built = mixed(lambda: layer.build(layer.probe.but(bias=not layer.takes_no_bias)))
    except NotAdoptedError as error:  # a layer is called when it is built
        yield f"under a policy of mixed precision, {error}"
        return
    for path in layer.framework.tensors(single):
        layer.framework.write(built, path, layer.framework.read(single, path).astype(np.float32))
    if wrong := _differing(_passed(layer, built, what), _passed(layer, single, what), _MIXED):
        yield f"under a policy of mixed precision, {_are(wrong)} far off"


def _filled(layer: Layer) -> Any:
    """A new layer whose factors and base are drawn, always the same ones."""
    built, framework, roles = layer.fresh(), layer.framework, layer.roles
    there, rng = framework.tensors(built), np.random.default_rng(9)
    for path in (roles.A.path, roles.B.path, *([] if roles.W is None else [roles.W.path]), *roles.biases):
        if path in there:
            framework.write(built, path, rng.normal(size=there[path].shape).astype(np.float32))
    return built


def _pass(layer: Layer, seed: int = 0) -> Pass:
    rng, (in_, out) = np.random.default_rng([10, seed]), (layer.probe.in_, layer.probe.out)
    of_ids = layer.kind is EMBEDDING
    x = rng.integers(in_, size=(2, 5)) if of_ids else rng.normal(size=(2, 5, in_)).astype(np.float32)
    dy = rng.normal(size=(2, 5, out)).astype(np.float32)
    return Pass(x, dy, {"dA": layer.roles.A.path, "dB": layer.roles.B.path})


def _passed(layer: Layer, built: Any, what: Pass) -> Numbers:
    return _numbers(layer, layer.framework.differentiate(built, what))


def _numbers(layer: Layer, outputs: dict[str, Any]) -> Numbers:
    return {name: layer.framework.numbers(value) for name, value in outputs.items()}


def _differing(got: Numbers, right: Numbers, close: float = _CLOSE) -> list[str]:
    return [name for name, value in right.items() if not _same(got[name], value, close)]


def _same(got: np.ndarray, right: np.ndarray, close: float = _CLOSE) -> bool:
    return got.shape == right.shape and bool(np.max(np.abs(got - right)) <= close * np.max(np.abs(right)))


def _are(names: list[str]) -> str:
    """y is; y and dx are."""
    *first, last = names
    return f"{', '.join(first)} and {last} are" if first else f"{last} is"
