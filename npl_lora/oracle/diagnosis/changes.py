"""What may happen to one number or array: dropped, doubled, squared, in another order, one slice of it left out ...

Each change comes with its clause, and an array's with its rank: simple ones are low, and those that tell an index start
at 50.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from ...support.array import Array
from ..tolerance.judge import format_factor
from .axes import axis_name, place_name, plural
from .degrees import Change, clipped, soft_capped, weighted

_INDICES = 6  # of one axis; and the last one

GRADIENT_CHANGES: Mapping[str, Change] = {
    "were lost": lambda t: 0.0 * t,
    "were doubled": lambda t: 2.0 * t,
    "had the other sign": lambda t: -t,
    "were larger by 1": lambda t: t + 1.0,
}


SCALAR_CHANGES: Mapping[str, Change] = {
    "were 1": lambda s: 1.0,
    "were doubled": lambda s: 2.0 * s,
    "were halved": lambda s: s / 2.0,
    "were larger by 1": lambda s: s + 1.0,
    "had the other sign": lambda s: -s,
    "were 0": lambda s: 0.0 * s,
    "were squared": lambda s: s * s,
    "were its square root": lambda s: abs(s) ** 0.5,
    "were its inverse": lambda s: 1.0 / s,
    "were larger by a tenth": lambda s: 1.1 * s,
    "were larger by 1/8": lambda s: s + 0.125,
}


class ArrayChange(NamedTuple):
    """says: the clause. family: changes of one family move the array along much the same direction. transpose: what a
    gradient goes through on its way back through a linear change."""

    says: str
    change: Change
    rank: int = 0
    family: str = ""
    transpose: Change | None = None


def array_changes(part: str, name: str, t: np.ndarray) -> Iterator[ArrayChange]:
    """What may happen to one array of a part. The first of a family stands for it: its direction is tried first."""
    if t.dtype.kind == "b":
        yield ArrayChange("were inverted", lambda a: a == False)  # noqa: E712 (an array)
    if t.dtype.kind in "iu":
        yield ArrayChange("were smaller by 1", _one_less, 1)
        yield ArrayChange("were larger by 1", lambda a: a + 1, 1)
    if t.dtype.kind == "f":
        yield from _changes_of_numbers(t)
        if name == "mask":
            yield ArrayChange("were not divided by 1 - p", _ones_where_kept)
    if t.ndim > 1 and t.shape[-1] == t.shape[-2] > 1:
        yield ArrayChange("were transposed", lambda a: a.mT)
    if t.ndim > 1 and t.shape[-1] > 1 and t.size > t.shape[-1]:
        yield ArrayChange("were reshaped where it should be transposed", _read_transposed, 1)
    for axis in range(-1, -min(t.ndim, 4) - 1, -1):
        if t.shape[axis] > 1:
            yield from _changes_along(axis, t, axis_name(part, name, t.ndim, axis))
    if t.ndim > 1 and t.dtype.kind == "f":
        yield from _changes_along_the_first(t, axis_name(part, name, t.ndim, -t.ndim))


def _changes_of_numbers(t: np.ndarray) -> Iterator[ArrayChange]:
    for says, factor in (("were doubled", 2.0), ("were 0", 0.0), ("were halved", 0.5), ("had the other sign", -1.0)):
        times = partial(_times, factor)
        yield ArrayChange(says, times, 0, "a factor", times)
    yield ArrayChange("were larger by 1", lambda a: a + 1.0, 1)
    yield ArrayChange("were squared", lambda a: a * a, 1)
    yield ArrayChange("were rooted, sign kept", _rooted, 1)
    largest = float(np.max(np.abs(t), initial=0.0))
    if largest > 0.0 and np.isfinite(largest):
        cap = 2.0 ** (math.ceil(math.log2(largest)) - 1)  # the same for arrays of about one size
        for start in (cap, cap / 4.0):  # from which another cap is looked for
            yield ArrayChange(f"were clipped at {format_factor(start)}", partial(clipped, start), 2)
        yield ArrayChange("were soft-capped at 1", partial(soft_capped, 1.0), 2)


def _changes_along(axis: int, t: np.ndarray, place: str) -> Iterator[ArrayChange]:
    n, of_floats = t.shape[axis], t.dtype.kind == "f"
    forward, back, mirror, mean = (
        *(partial(rolled, axis, by) for by in (1, -1)),
        partial(_reversed, axis),
        partial(_averaged, axis),
    )
    yield ArrayChange(f"were rolled forward by one {place}", forward, 1, "", back)
    yield ArrayChange(f"were rolled back by one {place}", back, 1, "", forward)
    if n > 2:
        yield ArrayChange(f"were in the reverse order by {place}", mirror, 1, "", mirror)
    if of_floats:
        yield ArrayChange(f"were divided by the number of {plural(place)}", mean, 1, "a factor", mean)
    for i in dict.fromkeys([*range(min(n, _INDICES)), n - 1]):
        index = -1 if i == n - 1 else i
        there = place_name(place, index)
        if of_floats:
            for rank, says, weight in ((50, f"lacked {there}", 0.0), (51, f"counted {there} twice", 2.0)):
                change = partial(weighted, axis, index, weight)
                yield ArrayChange(says, change, rank, there, change)
        for step, neighbour in ((1, "after"), (-1, "before")):
            if 0 <= i + step < n:
                says = f"had at {there} the one {neighbour} it"
                yield ArrayChange(says, partial(_neighbour, axis, index, step), 52, there if of_floats else "")


def _changes_along_the_first(t: np.ndarray, place: str) -> Iterator[ArrayChange]:
    """Along the first axis, wherever that is from the end: x may have any number of axes."""
    n = t.shape[0]
    over, mirror = _over_the_first, _reversed_along_the_first
    if t.ndim > 2 and n > 1:
        yield ArrayChange(f"were divided by the number of {plural(place)}, its first axis", over, 1, "a factor", over)
    yield ArrayChange("were in the reverse order along the first axis", mirror, 1, "", mirror)
    yield ArrayChange("had zeros in the last row of all", _without_the_last_row, 1, "", _without_the_last_row)
    if n > 2:
        for index in (0, -1):
            which = "last" if index else "first"
            alone = partial(_alone, index)
            yield ArrayChange(f"had its {which} {place} alone", alone, 1, "", alone)


def _over_the_first(t: Array) -> Array:
    return t / t.shape[0] if t.ndim > 1 else t


def _reversed_along_the_first(t: Array) -> Array:
    return _reversed(-t.ndim, t) if t.ndim > 1 else t


def _without_the_last_row(t: Array) -> Array:
    """t without the last token of the last batch row, and without the only one."""
    factors = np.ones(t.shape)
    factors.reshape(-1, t.shape[-1])[-1] = 0.0
    return t * factors


def _alone(index: int, t: Array) -> Array:
    """t with zeros for all but one entry along its first axis."""
    if t.ndim < 2:
        return t
    factors = np.zeros(t.shape)
    factors[index] = 1.0
    return t * factors


def _read_transposed(t: Array) -> Array:
    """The numbers of t (N, F) in the order in which they are stored, cut into F rows of N where t^T is meant."""
    if t.ndim < 2:
        return t
    xp = t.__array_namespace__()
    return xp.reshape(xp.reshape(t, (t.shape[-1], -1)).mT, t.shape)


def rectified(t: Array) -> Array:
    return t.__array_namespace__().where(t > 0, t, 0.0 * t)


def _one_less(t: Array) -> Array:
    """Not below 0. Numbers that are negative, as an ignored label may be, stay what they are."""
    xp = t.__array_namespace__()
    return xp.where(t > 0, t - 1, t)


def _times(factor: float, t: Array) -> Array:
    return factor * t


def _rooted(t: Array) -> Array:
    xp = t.__array_namespace__()
    return xp.where(t < 0, -xp.sqrt(xp.where(t < 0, -t, 0.0 * t)), xp.sqrt(xp.where(t < 0, 0.0 * t, t)))


def _ones_where_kept(mask: Array) -> Array:
    xp = mask.__array_namespace__()
    return xp.where(mask == 0, 0.0 * mask, xp.ones_like(mask))


def rolled(axis: int, step: int, t: Array) -> Array:
    return _taken_along(t, axis, lambda n: (np.arange(n) - step) % n)


def _averaged(axis: int, t: Array) -> Array:
    return t / t.shape[axis] if t.ndim >= -axis else t


def _reversed(axis: int, t: Array) -> Array:
    return _taken_along(t, axis, lambda n: np.arange(n)[::-1])


def _neighbour(axis: int, index: int, step: int, t: Array) -> Array:
    def indices(n: int) -> np.ndarray:
        order = np.arange(n)
        if -n <= index < n:
            order[index] = np.clip(order[index] + step, 0, n - 1)
        return order

    return _taken_along(t, axis, indices)


def _taken_along(t: Array, axis: int, indices: Callable[[int], np.ndarray]) -> Array:
    if t.ndim < -axis:
        return t
    xp = t.__array_namespace__()
    return xp.take(t, xp.asarray(indices(t.shape[axis])), axis=axis)
