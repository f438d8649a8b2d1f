"""Several adapters in one torch layer: whether it computes with the one that it was switched to.

A layer is asked so if it has a method that adds an adapter by its name, and one that switches to it. Nothing is assumed
of the scale of what is added: right is what a layer computes that never had another one.
"""

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from .torch_probe import Numbers, Probe, are, called, differing
from .words import ADD_ADAPTER, SWITCH

_ADAPTERS = {"first": 2, "second": 3}  # and the seed of each one's numbers


@dataclass(frozen=True)
class Switch:
    """The names of the methods that add an adapter and switch to it."""

    add: str
    to: str


def find_switch(probe: Probe) -> Switch | None:
    """The methods, or None where a layer has none, or they want more than a name."""
    built = probe.layer()
    add, to = (next((n for n in table if callable(getattr(built, n, None))), "") for table in (ADD_ADAPTER, SWITCH))
    if not add or not to or probe.has_magnitude:
        return None
    switch = Switch(add, to)
    try:
        _switched(probe, switch, "first")
    except Exception:  # a stranger's method that wants something else
        return None
    return switch


def switching(probe: Probe) -> Iterator[str]:
    """After switching from one adapter to another and back, y and the gradients are those of the one in use."""
    switch = find_switch(probe)
    assert switch is not None
    alone = {name: _numbers(*_switched(probe, switch, name)) for name in _ADAPTERS}
    if not differing({"y": alone["first"]["y"]}, {"y": alone["second"]["y"]}):
        yield "switching to another adapter has no effect"
    built = probe.layer()
    probes = {name: _added(probe, built, switch, name) for name in _ADAPTERS}
    last = ""
    for name in ("first", "second", "first"):
        getattr(built, switch.to)(name)
        got = _numbers(probes[name], built)
        if wrong := differing(got, alone[name]):
            old = bool(last) and not differing(got, {one: alone[last][one] for one in wrong})
            those = "those" if len(wrong) > 1 else "that"
            what = f"still {those} of the last one" if old else "wrong"
            yield f"after switching to another adapter, {are(wrong)} {what}"
        last = name


def _numbers(probe: Probe, built: Any) -> Numbers:
    """y in evaluation, and y and the gradients in training."""
    evaluated = called(probe, built, "evaluation")
    built.train()
    return {"y in evaluation": evaluated, **probe.gradients(built, probe.x())}


def _switched(probe: Probe, switch: Switch, name: str) -> tuple[Probe, Any]:
    """A new layer that is switched to the only adapter that was added, and what reads that adapter's factors."""
    built = probe.layer()
    of_one = _added(probe, built, switch, name)
    getattr(built, switch.to)(name)
    return of_one, built


def _added(probe: Probe, built: Any, switch: Switch, name: str) -> Probe:
    """Add an adapter and fill it. Raises LookupError where its factors are not found by their shapes."""
    framework = probe.framework
    before = framework.tensors(built)
    getattr(built, switch.add)(name)
    framework.cast(built, "float64")
    new = {path: t.shape for path, t in framework.tensors(built).items() if path not in before}
    of_one = copy(probe)
    of_one.paths = {}
    for k, (factor, own) in enumerate(probe.paths.items()):
        fitting = [path for path, shape in new.items() if shape == before[own].shape]
        if len(fitting) != 1:
            raise LookupError(f"{len(fitting)} new tensors have the shape of {factor}")
        of_one.paths[factor] = fitting[0]
        rng = np.random.default_rng([k, _ADAPTERS[name]])
        framework.write(built, fitting[0], rng.normal(size=before[own].shape))
    return of_one
