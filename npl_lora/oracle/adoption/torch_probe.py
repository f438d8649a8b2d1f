"""Layers of the same sizes with numbers of their own, to be compared with each other in float64."""

from functools import cached_property
from typing import Any

import numpy as np
import torch

from .kinds import CONV2D, EMBEDDING
from .layer import Layer
from .torch_layers import call, dropout_as, held

_CLOSE = 1e-9  # relative, in float64
_STEP = 1e-4  # y is linear in each of x, A and B, and DoRA's curves little over so short a way
_STRAYS = 1e-5  # relative; what is left out of a gradient is no small part of it

Numbers = dict[str, torch.Tensor]


class Probe:
    """Layers of the same sizes with numbers of their own, and inputs for them."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self.framework = layer.framework
        self.wanted = layer.probe.but(bias=not layer.takes_no_bias)
        self.paths = {"A": layer.roles.A.path, "B": layer.roles.B.path}

    def layer(self, seed: int = 0) -> Any:
        """A layer in training mode whose numbers are drawn with this seed; those of the base are always the same."""
        framework, roles = self._layer.framework, self._layer.roles
        with framework.repeatable():  # type: ignore[attr-defined]
            built = framework.cast(self._layer.build(self.wanted), "float64")
        base = [] if roles.W is None else [roles.W.path]
        for k, path in enumerate((*self.paths.values(), *base, *roles.biases, *filter(None, [roles.m]))):
            if (t := framework.tensors(built).get(path)) is not None:
                rng = np.random.default_rng([k, seed if k < len(self.paths) else 0])
                framework.write(built, path, rng.normal(size=t.shape) + (3.0 if path == roles.m else 0.0))
        for path in self.paths.values():
            if held(built, path).is_leaf:
                held(built, path).requires_grad_()
        built.train()
        return built

    def merges_in_eval(self) -> bool:
        """Whether W has the update in evaluation, as in loralib; then A and B may change in training alone."""
        W = self._layer.roles.W
        if W is None:
            return False
        built = self.layer(1)
        before = held(built, W.path).detach().clone()
        built.eval()
        return not torch.equal(held(built, W.path).detach(), before)

    @property
    def has_magnitude(self) -> bool:
        return self._layer.roles.m is not None

    def x(self, seed: int = 0) -> torch.Tensor:
        rng, in_ = np.random.default_rng(100 + seed), self.wanted.in_
        if self._layer.kind is EMBEDDING:
            return torch.from_numpy(rng.integers(in_, size=(2, 3)))
        shape = (2, in_, 4, 3) if self._layer.kind is CONV2D else (2, 3, in_)
        return torch.from_numpy(rng.normal(size=shape)).requires_grad_()

    def factor(self, built: Any, name: str) -> torch.Tensor:
        return held(built, self.paths[name])

    def gradients(self, built: Any, *xs: torch.Tensor) -> Numbers:
        """y, dx, dA and dB, of the sum of <dy, y> over the inputs; dA and dB start from nothing."""
        for name in self.paths:
            self.factor(built, name).grad = None
        with dropout_as(None):
            ys = [call(built, x) for x in xs]
        sum((weights(y) * y).sum() for y in ys).backward()
        return self.collected(built, ys[0], xs[0])

    def collected(self, built: Any, y: torch.Tensor, x: torch.Tensor) -> Numbers:
        """y and the gradients that a backward left, without those that are wrong in a clean call, too."""
        return {name: t for name, t in self._left(built, y, x).items() if name not in self._wrong}

    def _left(self, built: Any, y: torch.Tensor, x: torch.Tensor) -> Numbers:
        leaves = {name: t for name in self.paths if (t := self.factor(built, name)).is_leaf}
        found = {"y": y, "dx": x.grad, **{f"d{name}": t.grad for name, t in leaves.items()}}
        return {name: t.detach().clone() for name, t in found.items() if t is not None}

    @cached_property
    def _wrong(self) -> frozenset[str]:
        """The gradients of a clean call that say something else than y does when x, A or B moves a little. lora_linear
        tells of them; compared with what is right elsewhere, they would put the blame there."""
        built, x = self.layer(), self.x()
        with dropout_as(None):
            y = call(built, x)
        (weights(y) * y).sum().backward()
        return frozenset(name for name, g in self._left(built, y, x).items() if name != "y" and self._strays(name, g))

    def _strays(self, name: str, g: torch.Tensor) -> bool:
        move = torch.from_numpy(np.random.default_rng(8).normal(size=tuple(g.shape)))
        ahead, behind = (self._moved(name, by * move) for by in (_STEP, -_STEP))
        error = (ahead - behind) / (2.0 * _STEP) - float((g * move).sum())
        return abs(error) > _STRAYS * float(g.norm() * move.norm())

    def _moved(self, name: str, by: torch.Tensor) -> float:
        """<dy, y> of a new layer, after x, A or B was moved."""
        built, x = self.layer(), self.x()
        t = x if name == "dx" else self.factor(built, name[1:])
        with torch.no_grad(), dropout_as(None):
            t += by
            y = call(built, x)
            return float((weights(y) * y).sum())


def weights(y: torch.Tensor) -> torch.Tensor:
    """A gradient of y: always the same for a shape."""
    return torch.from_numpy(np.random.default_rng(7).normal(size=tuple(y.shape))).to(y.dtype)


def called(probe: Probe, built: Any, mode: str) -> torch.Tensor:
    """y, after which the layer stays in that mode."""
    built.train(mode == "training")
    with dropout_as(None), torch.no_grad():
        return call(built, probe.x())


def differing(got: Numbers, right: Numbers, close: float = _CLOSE) -> list[str]:
    return [name for name, t in right.items() if name not in got or not same(got[name], t, close)]


def same(got: torch.Tensor, right: torch.Tensor, close: float = _CLOSE) -> bool:
    size = float(right.abs().max()) if right.numel() else 0.0
    return got.shape == right.shape and float((got.double() - right.double()).abs().max()) <= close * size


def are(names: list[str]) -> str:
    """y is; y and dx are."""
    *first, last = names
    return f"{', '.join(first)} and {last} are" if first else f"{last} is"
