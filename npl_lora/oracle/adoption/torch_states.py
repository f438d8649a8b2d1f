"""What one clean call of a torch layer cannot show: whether it stays right after its factors were changed, when it is
called twice, when its graph is used twice, and under what torch wraps around a call.

Each compares the layer with a fresh one of the same numbers, in float64, so nothing is said of the numbers themselves.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from .layer import Layer
from .torch_layers import call, dropout_as
from .torch_probe import Numbers, Probe, are, called, differing, same, weights
from .torch_switching import find_switch, switching

_AUTOCAST = 0.05  # relative to the largest number: bfloat16 has eight bits

Change = Callable[[torch.Tensor, torch.Tensor], object]


def states(layer: Layer) -> dict[str, Callable[[Layer], Iterator[str]]]:
    """{what is asked: the function that yields what is wrong}. After a clean call that raises, nothing more is asked:
    all the rest would raise the same."""
    probe = Probe(layer)
    try:
        probe.gradients(probe.layer(), probe.x())
    except Exception:  # whatever a stranger's layer raises; asked again, it says so
        return {"clean-call": _of_probe(clean_call, probe)}
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
        *([switching] if find_switch(probe) else []),
    )
    return {one.__name__.replace("_", "-"): _of_probe(one, probe) for one in asked}


def _of_probe(one: Callable[["Probe"], Iterator[str]], probe: "Probe") -> Callable[[Layer], Iterator[str]]:
    return lambda _: one(probe)


def clean_call(probe: Probe) -> Iterator[str]:
    """One forward and backward in float64; it raises, or nothing is wrong."""
    probe.gradients(probe.layer(), probe.x())
    yield from ()


def freezing(probe: Probe) -> Iterator[str]:
    """What is meant to freeze a layer does: on a module, requires_grad is an attribute like any other."""
    for path, module in probe.layer().named_modules():
        for name in ("requires_grad", "requires_grad_"):
            if name in vars(module):
                yield f"{name} = {vars(module)[name]} on the module {path or 'itself'} freezes nothing"


def changed_in_place(probe: Probe) -> Iterator[str]:
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


def _after_change(probe: Probe, name: str, mode: str, change: Change, right: Numbers) -> str:
    """What is wrong after a factor was changed: whether it is still as it was."""
    built, before = probe.layer(1), probe.layer(1)
    for one in (built, before):
        _copy(probe.factor(one, name), probe.factor(probe.layer(0), name).detach())
    called(probe, built, mode)
    change(probe.factor(built, name), probe.factor(probe.layer(1), name).detach())
    evaluated = mode == "evaluation"
    got = {"y": called(probe, built, mode)} if evaluated else probe.gradients(built, probe.x())
    wrong = differing(got, {"y": right["y"]} if evaluated else right)
    if not wrong:
        return ""
    stale = probe.gradients(before, probe.x())
    kept = not differing({one: got[one] for one in wrong if one in got}, {one: stale[one] for one in wrong})
    those = "those" if len(wrong) > 1 else "that"
    named = are(wrong).replace("y is", "y in evaluation is") if evaluated else are(wrong)
    return f"{named} {f'still {those} of the old {name}' if kept else 'wrong'}"


def second_backward(probe: Probe) -> Iterator[str]:
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
    if wrong := differing(seen[1], seen[0]):
        yield f"after a second backward through the same graph {are(wrong)} no longer the same"


def inputs_kept(probe: Probe) -> Iterator[str]:
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


def called_twice(probe: Probe) -> Iterator[str]:
    """Two calls in one graph: the gradients of A and B are the sums of both."""
    both = probe.gradients(probe.layer(), probe.x(0), probe.x(1))
    one, other = (probe.gradients(probe.layer(), probe.x(seed)) for seed in (0, 1))
    sums: Numbers = {name: one[name] + other[name] for name in ("dA", "dB") if name in one and name in other}
    right = {**one, **sums}
    if wrong := differing(both, right):
        yield f"called twice in one graph, {are(wrong)} wrong"


def train_and_eval(probe: Probe) -> Iterator[str]:
    """After eval() and train() in turn, everything is as it was."""
    built = probe.layer()
    right = probe.gradients(built, probe.x())
    for leave in (built.eval, partial(built.train, False)):  # as called itself, and as in a model
        leave()
        with dropout_as(None), torch.no_grad():
            y = call(built, probe.x())
        if not same(y, right["y"]):
            yield "y in evaluation differs from y in training without dropout"
        built.train()
    if wrong := differing(probe.gradients(built, probe.x()), right):
        yield f"after eval() and train() in turn, {are(wrong)} no longer the same"


def autocast(probe: Probe) -> Iterator[str]:
    """Under torch.autocast in bfloat16, y and the gradients agree to what that dtype has."""
    right = probe.gradients(_single_layer(probe), _single(probe.x()))
    built = _single_layer(probe)  # before autocast, which keeps copies of the parameters that it has seen
    with torch.autocast("cpu", torch.bfloat16):
        got = probe.gradients(built, _single(probe.x()))
    if wrong := differing(got, right, _AUTOCAST):
        yield f"under torch.autocast, {are(wrong)} far off"


def not_contiguous(probe: Probe) -> Iterator[str]:
    """An x that is not contiguous in memory gives the same: its axes lie there in the reverse order, as after a
    transpose, so that no view can join the first ones."""
    x = probe.x().detach()
    strided = x.permute(*reversed(range(x.ndim))).contiguous().permute(*reversed(range(x.ndim)))
    if x.is_floating_point():
        strided.requires_grad_()
    if wrong := differing(probe.gradients(probe.layer(), strided), probe.gradients(probe.layer(), probe.x())):
        yield f"with an x that is not contiguous, {are(wrong)} wrong"


def checkpointed(probe: Probe) -> Iterator[str]:
    """Under gradient checkpointing the gradients are the same."""
    built, x = probe.layer(), probe.x()
    right = probe.gradients(probe.layer(), probe.x())
    with dropout_as(None):
        y = checkpoint(lambda x: call(built, x), x, use_reentrant=False)
        y.backward(weights(y))
    if wrong := differing(probe.collected(built, y, x), right):
        yield f"under gradient checkpointing, {are(wrong)} wrong"


def _copy(t: torch.Tensor, new: torch.Tensor) -> None:
    with torch.no_grad():
        t.copy_(new)


def _step(t: torch.Tensor, new: torch.Tensor) -> None:
    """The step of plain gradient descent that leads to the new numbers."""
    t.grad = t.detach() - new
    torch.optim.SGD([t], lr=1.0).step()
    t.grad = None


def _single_layer(probe: Probe) -> Any:
    return probe.framework.cast(probe.layer(), "float32")


def _single(x: torch.Tensor) -> torch.Tensor:
    return x.detach().float().requires_grad_() if x.is_floating_point() else x
