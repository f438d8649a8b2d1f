"""What one clean call of a torch layer cannot show: whether it stays right after its factors were changed, when it is
called twice, when its graph is used twice, and under what torch wraps around a call.

Each compares the layer with a fresh one of the same numbers, in float64, so nothing is said of the numbers themselves.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from .kinds import CONV2D, EMBEDDING
from .layer import Layer
from .torch_layers import call, dropout_as, held

_CLOSE = 1e-9  # relative, in float64
_AUTOCAST = 0.05  # relative to the largest number: bfloat16 has eight bits

Numbers = dict[str, torch.Tensor]
Change = Callable[[torch.Tensor, torch.Tensor], object]


def states(layer: Layer) -> dict[str, Callable[[Layer], Iterator[str]]]:
    """{what is asked: the function that yields what is wrong}."""
    probe = _Probe(layer)
    asked = (
        freezing,
        changed_in_place,
        second_backward,
        inputs_kept,
        called_twice,
        train_and_eval,
        autocast,
        not_contiguous,
        checkpointed,
    )
    return {one.__name__.replace("_", "-"): _of_probe(one, probe) for one in asked}


def _of_probe(one: Callable[["_Probe"], Iterator[str]], probe: "_Probe") -> Callable[[Layer], Iterator[str]]:
    return lambda _: one(probe)


class _Probe:
    """Layers of the same sizes with numbers of their own, and inputs for them."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self.framework = layer.framework
        self.wanted = layer.probe.but(bias=not layer.takes_no_bias)
        self.paths = {"A": layer.roles.A.path, "B": layer.roles.B.path}

    def layer(self, seed: int = 0) -> Any:
        """A layer in training mode whose numbers are drawn with this seed; those of the base are always the same."""
        framework, built, roles = self._layer.framework, self._layer.build(self.wanted), self._layer.roles
        framework.cast(built, "float64")
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
        """y and the gradients that a backward left."""
        leaves = {name: t for name in self.paths if (t := self.factor(built, name)).is_leaf}
        found = {"y": y, "dx": x.grad, **{f"d{name}": t.grad for name, t in leaves.items()}}
        return {name: t.detach().clone() for name, t in found.items() if t is not None}


def weights(y: torch.Tensor) -> torch.Tensor:
    """A gradient of y: always the same for a shape."""
    return torch.from_numpy(np.random.default_rng(7).normal(size=tuple(y.shape))).to(y.dtype)


def freezing(probe: _Probe) -> Iterator[str]:
    """What is meant to freeze a layer does: on a module, requires_grad is an attribute like any other."""
    for path, module in probe.layer().named_modules():
        for name in ("requires_grad", "requires_grad_"):
            if name in vars(module):
                yield f"{name} = {vars(module)[name]} on the module {path or 'itself'} freezes nothing"


def changed_in_place(probe: _Probe) -> Iterator[str]:
    """After A or B was changed, y and the gradients are those of the new numbers."""
    right = probe.gradients(probe.layer(1), probe.x())
    ways: dict[str, Change] = {
        "by copy_": _copy,
        "through .data": lambda t, new: t.data.copy_(new),
        "by an optimiser's step": _step,
    }
    for mode in ("training",) if probe.merges_in_eval() else ("training", "evaluation"):
        for words, change in ways.items():
            for name in probe.paths:
                if change is _step and not probe.factor(probe.layer(), name).is_leaf:
                    continue  # no optimiser takes it
                if wrong := _after_change(probe, name, mode, change, right):
                    yield f"after {name} was changed {words}, {wrong}"


def _after_change(probe: _Probe, name: str, mode: str, change: Change, right: Numbers) -> str:
    """What is wrong after a factor was changed: whether it is still as it was."""
    built, before = probe.layer(1), probe.layer(1)
    for one in (built, before):
        _copy(probe.factor(one, name), probe.factor(probe.layer(0), name).detach())
    _called(probe, built, mode)
    change(probe.factor(built, name), probe.factor(probe.layer(1), name).detach())
    evaluated = mode == "evaluation"
    got = {"y": _called(probe, built, mode)} if evaluated else probe.gradients(built, probe.x())
    wrong = _differing(got, {"y": right["y"]} if evaluated else right)
    if not wrong:
        return ""
    stale = probe.gradients(before, probe.x())
    kept = not _differing({one: got[one] for one in wrong if one in got}, {one: stale[one] for one in wrong})
    those = "those" if len(wrong) > 1 else "that"
    named = _are(wrong).replace("y is", "y in evaluation is") if evaluated else _are(wrong)
    return f"{named} {f'still {those} of the old {name}' if kept else 'wrong'}"


def second_backward(probe: _Probe) -> Iterator[str]:
    """A second backward through the same graph gives the same gradients."""
    built, x = probe.layer(), probe.x()
    with dropout_as(None):
        y = call(built, x)
    seen = []
    for _ in range(2):
        for t in (x, *(probe.factor(built, name) for name in probe.paths)):
            t.grad = None
        y.backward(weights(y), retain_graph=True)
        seen.append(probe.collected(built, y, x))
    if wrong := _differing(seen[1], seen[0]):
        yield f"after a second backward through the same graph {_are(wrong)} no longer the same"


def inputs_kept(probe: _Probe) -> Iterator[str]:
    """x and dy keep their numbers: another branch may use them."""
    built, x = probe.layer(), probe.x()
    before = x.detach().clone()
    with dropout_as(None):
        y = call(built, x)
    dy = weights(y)
    y.backward(dy)
    if not torch.equal(x.detach(), before):
        yield "x is overwritten: a branch that uses it after the call gets other numbers"
    if not torch.equal(dy, weights(y)):
        yield "dy is overwritten in the backward: a branch that shares it gets other numbers"


def called_twice(probe: _Probe) -> Iterator[str]:
    """Two calls in one graph: the gradients of A and B are the sums of both."""
    both = probe.gradients(probe.layer(), probe.x(0), probe.x(1))
    one, other = (probe.gradients(probe.layer(), probe.x(seed)) for seed in (0, 1))
    sums: Numbers = {name: one[name] + other[name] for name in ("dA", "dB") if name in one and name in other}
    right = {**one, **sums}
    if wrong := _differing(both, right):
        yield f"called twice in one graph, {_are(wrong)} wrong"


def train_and_eval(probe: _Probe) -> Iterator[str]:
    """After eval() and train() in turn, everything is as it was."""
    built = probe.layer()
    right = probe.gradients(built, probe.x())
    for _ in range(2):
        y = _called(probe, built, "evaluation")
        if not _same(y, right["y"]):
            yield "y in evaluation differs from y in training without dropout"
        built.train()
    if wrong := _differing(probe.gradients(built, probe.x()), right):
        yield f"after eval() and train() in turn, {_are(wrong)} no longer the same"


def autocast(probe: _Probe) -> Iterator[str]:
    """Under torch.autocast in bfloat16, y and the gradients agree to what that dtype has."""
    right = probe.gradients(_single_layer(probe), _single(probe.x()))
    built = _single_layer(probe)  # before autocast, which keeps copies of the parameters that it has seen
    with torch.autocast("cpu", torch.bfloat16):
        got = probe.gradients(built, _single(probe.x()))
    if wrong := _differing(got, right, _AUTOCAST):
        yield f"under torch.autocast, {_are(wrong)} far off"


def not_contiguous(probe: _Probe) -> Iterator[str]:
    """An x that is not contiguous in memory gives the same."""
    x = probe.x().detach()
    strided = torch.stack((x, x), dim=-1)[..., 0]
    if x.is_floating_point():
        strided.requires_grad_()
    if wrong := _differing(probe.gradients(probe.layer(), strided), probe.gradients(probe.layer(), probe.x())):
        yield f"with an x that is not contiguous, {_are(wrong)} wrong"


def checkpointed(probe: _Probe) -> Iterator[str]:
    """Under gradient checkpointing the gradients are the same."""
    built, x = probe.layer(), probe.x()
    right = probe.gradients(probe.layer(), probe.x())
    with dropout_as(None):
        y = checkpoint(lambda x: call(built, x), x, use_reentrant=False)
        y.backward(weights(y))
    if wrong := _differing(probe.collected(built, y, x), right):
        yield f"under gradient checkpointing, {_are(wrong)} wrong"


def _copy(t: torch.Tensor, new: torch.Tensor) -> None:
    with torch.no_grad():
        t.copy_(new)


def _step(t: torch.Tensor, new: torch.Tensor) -> None:
    """The step of plain gradient descent that leads to the new numbers."""
    t.grad = t.detach() - new
    torch.optim.SGD([t], lr=1.0).step()
    t.grad = None


def _called(probe: _Probe, built: Any, mode: str) -> torch.Tensor:
    """y, after which the layer stays in that mode."""
    built.train(mode == "training")
    with dropout_as(None), torch.no_grad():
        return call(built, probe.x())


def _single_layer(probe: _Probe) -> Any:
    return probe.framework.cast(probe.layer(), "float32")


def _single(x: torch.Tensor) -> torch.Tensor:
    return x.detach().float().requires_grad_() if x.is_floating_point() else x


def _differing(got: Numbers, right: Numbers, close: float = _CLOSE) -> list[str]:
    return [name for name, t in right.items() if name not in got or not _same(got[name], t, close)]


def _same(got: torch.Tensor, right: torch.Tensor, close: float = _CLOSE) -> bool:
    size = float(right.abs().max()) if right.numel() else 0.0
    return got.shape == right.shape and float((got.double() - right.double()).abs().max()) <= close * size


def _are(names: list[str]) -> str:
    """y is; y and dx are."""
    *first, last = names
    return f"{', '.join(first)} and {last} are" if first else f"{last} is"
