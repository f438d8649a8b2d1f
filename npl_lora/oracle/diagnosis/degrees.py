"""Mistakes that can be made by degrees: a factor, a constant, a weight, a cap. The degree is found, not listed.

Degree 0 changes nothing, and degree 1 is the edit as it is listed. In between and beyond, the answer need not be linear
in the degree: a factor inside a softmax is not. So the degree is found by steps (see `fitted`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ...support.array import Array
from ..report import Observed
from ..tolerance.judge import Right, format_factor
from .compare import predict, quick_distance
from .hypothesis import Hypothesis

Change = Callable[[Any], Any]

_STEPS = 8
_SAME = 1e-14  # a step that changes the degree by less than this share is the last one


@dataclass(frozen=True)
class Degrees:
    """says: the clause, change: the change, both by degree."""

    says: Callable[[float], str]
    change: Callable[[float], Change]


def degrees(name: str, says: str, change: Change) -> Degrees | None:
    """The degrees of the edit "name says", if it has any."""
    if says in ("were doubled", "were larger by a tenth"):
        return _factors(name, 1.0 if says == "were doubled" else 0.1)
    if says in ("were larger by 1", "were larger by 1/8"):
        return _constants(name, 1.0 if says.endswith(" 1") else 0.125)
    if says.startswith("lacked "):
        axis, index, _ = change.args  # type: ignore[attr-defined]
        place = says.removeprefix("lacked ")
        return Degrees(
            lambda c: f"{name} counted {place} {format_factor(1.0 - c)} times",
            lambda c: partial(weighted, axis, index, 1.0 - c),
        )
    if says.startswith("were clipped "):
        half = change.args[0]  # type: ignore[attr-defined]
        cap = lambda c: half * (2.0 - c)  # noqa: E731
        return Degrees(
            lambda c: f"{name} were clipped at {format_factor(cap(c))}",
            lambda c: partial(clipped, cap(c)),
        )
    if says.startswith("were soft-capped "):
        cap = lambda c: max(c, 1e-12) ** -0.5  # noqa: E731
        return Degrees(
            lambda c: f"{name} were soft-capped at {format_factor(cap(c))}",
            lambda c: partial(soft_capped, cap(c)),
        )
    return None


def _factors(name: str, step: float) -> Degrees:
    return Degrees(
        lambda c: f"{name} were {format_factor(1.0 + c * step)} times as large",
        lambda c: partial(_times, 1.0 + c * step),
    )


def _constants(name: str, step: float) -> Degrees:
    return Degrees(lambda c: f"{name} were larger by {format_factor(c * step)}", lambda c: partial(_plus, c * step))


def _times(factor: float, a: Any) -> Any:
    return factor * a


def _plus(constant: float, a: Any) -> Any:
    return a + constant


def weighted(axis: int, index: int, weight: float, t: Array) -> Array:
    """t with one slice along an axis times a weight."""
    if t.ndim < -axis or not -t.shape[axis] <= index < t.shape[axis]:
        return t
    factors = np.ones(t.shape)
    np.moveaxis(factors, axis, 0)[index] = weight
    return t * factors


def clipped(cap: float, t: Array) -> Array:
    """t between -cap and cap."""
    xp = t.__array_namespace__()
    most = xp.where(t > cap, 0.0 * t + cap, t)
    return xp.where(most < -cap, 0.0 * t - cap, most)


def soft_capped(cap: float, t: Array) -> Array:
    """cap tanh(t / cap), by way of exp, for arrays that carry errors have no tanh."""
    xp = t.__array_namespace__()
    return cap - 2.0 * cap / (1.0 + xp.exp(2.0 * t / cap))


def fitted(hypothesis: Hypothesis, one: Observed, name: str, degree: float) -> list[Hypothesis]:
    """The hypothesis in the degrees that give this output, from a first guess: short numbers first, then the nearest.

    Each step goes along the difference that the step before made (the secant method, to the nearest point).
    """
    assert hypothesis.gradual is not None
    right = one.right[name]
    assert isinstance(right, Right)
    got, before, value, nearest = (one.outputs or {})[name].astype(np.float64), 0.0, right.value, None
    for _ in range(_STEPS):
        after = predict(hypothesis.gradual(degree).answer, one).get(name)
        if after is None or after.shape != got.shape or not np.isfinite(after).all():
            break
        if quick_distance(after, one, name) < 1.0:
            nearest = degree
        step = (after - value) / (degree - before)
        energy = float(np.sum(step * step))
        if energy == 0.0:
            break
        before, value = degree, after
        degree += float(np.sum((got - after) * step)) / energy
        if not abs(degree - before) > _SAME * abs(degree):
            break
    return [] if nearest is None else _near(hypothesis.gradual, nearest, one, name)


def _near(gradual: Callable[[float], Hypothesis], nearest: float, one: Observed, name: str) -> list[Hypothesis]:
    numbers = dict.fromkeys([*(float(f"{nearest:.{digits}g}") for digits in (1, 2, 3)), nearest])
    answers = [(near, predict(near.answer, one).get(name)) for near in map(gradual, numbers)]
    return [near for near, t in answers if t is not None and quick_distance(t, one, name) < 1.0]
