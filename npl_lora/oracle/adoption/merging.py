"""Merging: how a layer adds s B A to its weight, and whether it is still the same layer then.

A layer merges by a method that changes W, by one that returns a new layer or weight, or in eval(), as loralib does.
"""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .kinds import CONV2D, EMBEDDING
from .layer import Layer
from .words import MERGE, UNMERGE

_CLOSE = 1e-4  # relative; a fresh layer computes in float32
EVAL = "eval()"


@dataclass(frozen=True)
class Merging:
    """merge: the name of a method, or EVAL. unmerge: of a method, "train()", or "" if there is none."""

    merge: str
    unmerge: str = ""

    def merged(self, layer: Layer, built: Any) -> Any:
        """What a layer is after it merged: itself, or the new layer or weight that it returned."""
        if self.merge == EVAL:
            built.eval()
            return built
        returned = getattr(built, self.merge)()
        return built if returned is None or _weight(layer, returned) is None else returned

    def undo(self, built: Any) -> None:
        """Take the low-rank update away again."""
        if self.unmerge == "train()":
            built.train()
        else:
            getattr(built, self.unmerge)()


def find_merging(layer: Layer) -> Merging | None:
    """How a layer merges, or None."""
    if layer.path_alone or layer.roles.W is None or layer.roles.m is not None or layer.kind in (CONV2D, EMBEDDING):
        return None
    built = _random(layer)
    names = [name for name in MERGE if _takes_nothing(built, name) and not _is_missing(layer, name)]
    if names:
        return Merging(names[0], next((name for name in UNMERGE if _takes_nothing(built, name)), ""))
    before = layer.framework.read(built, layer.roles.W.path)
    if layer.framework.name == "torch" and not np.array_equal(_after_eval(layer, built), before):
        return Merging(EVAL, "train()")
    return None


def weight_after(layer: Layer, merged: Any, turned: bool) -> Any:
    """W of what `Merging.merged` gave: (out, in); or as it is stored, where fan_in_fan_out says that it is turned."""
    W = _weight(layer, merged)
    stored = layer.roles.W is not None and layer.roles.W.transposed
    return W.T if turned and stored else W


def merging_facts(layer: Layer, merging: Merging) -> Iterator[str]:
    """A merged layer gives the same y; merging twice adds the update once."""
    built, x = _random(layer), _x(layer)
    framework = layer.framework
    if merging.merge == EVAL:
        return  # the calls in training and evaluation show it
    before, W = framework.evaluate(built, x), np.array(_weight(layer, built))
    merged = merging.merged(layer, built)
    if not callable(merged):
        return  # a weight alone, which lora_merge judges
    if not _same(framework.evaluate(merged, x), before):
        yield f"after {merging.merge}() y is another one{_still_added(layer, merged, before, x @ W.T)}"
    elif merged is built:
        merging.merged(layer, built)
        if not _same(framework.evaluate(built, x), before):
            yield f"{merging.merge}() twice adds the update twice"


def hidden_methods(layer: Layer) -> Iterator[str]:
    """A method to merge that an attribute of the same name hides."""
    built = layer.fresh()
    for name in (*MERGE, *UNMERGE):
        if callable(getattr(type(built), name, None)) and not callable(getattr(built, name, None)):
            yield f"the attribute {name} hides the method {name}(), so nobody can call it"


def _still_added(layer: Layer, merged: Any, before: np.ndarray, base: np.ndarray) -> str:
    """Whether W has the update and forward adds the low-rank path all the same. base: x W^T, without a bias."""
    there = layer.framework.tensors(merged)
    biases = [layer.framework.read(merged, path) for path in layer.roles.biases[:1] if path in there]
    twice = before + (before - sum(biases, start=base))
    still = _same(layer.framework.evaluate(merged, _x(layer)), twice)
    return ": W has the update, and forward still adds the low-rank path" if still else ""


def _weight(layer: Layer, of: Any) -> Any:
    """The weight of a layer, or a plain weight, as (out, in); None for anything else, such as a flag."""
    assert layer.roles.W is not None
    if hasattr(of, "shape"):
        return of.T if layer.roles.W.transposed else of
    there = layer.framework.tensors(of) if callable(of) else {}
    if layer.roles.W.path in there:
        found = layer.framework.read(of, layer.roles.W.path)
        return found.T if layer.roles.W.transposed else found
    return layer.framework.read(of, "weight") if "weight" in there else None


def _takes_nothing(built: Any, name: str) -> bool:
    """Whether this is a method that can be called without arguments."""
    method = getattr(built, name, None)
    if not callable(method) or not hasattr(type(built), name):
        return False
    parameters = inspect.signature(method).parameters.values()
    return all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def _is_missing(layer: Layer, name: str) -> bool:
    """Whether a method says itself that it is not written yet."""
    try:
        getattr(_random(layer), name)()
    except NotImplementedError:
        return True
    except Exception:  # whatever else it raises is told with the answers of lora_merge
        return False
    return False


def _after_eval(layer: Layer, built: Any) -> np.ndarray:
    assert layer.roles.W is not None
    built.eval()
    return layer.framework.read(built, layer.roles.W.path)


def _random(layer: Layer) -> Any:
    built, rng = layer.fresh(), np.random.default_rng(4)
    for held in (layer.roles.A, layer.roles.B):
        shape = layer.framework.tensors(built)[held.path].shape
        layer.framework.write(built, held.path, rng.normal(size=shape).astype(np.float32))
    return built


def _x(layer: Layer) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(1, 5, layer.probe.in_)).astype(np.float32)


def _same(got: np.ndarray, right: np.ndarray) -> bool:
    return got.shape == right.shape and bool(np.max(np.abs(got - right)) <= _CLOSE * np.max(np.abs(right)))
