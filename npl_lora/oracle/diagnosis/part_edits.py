"""The edits of one part of the definition: of its arguments, of dy, of its value, its gradients and its terms.

See `edits`, which puts them into the calls of a case.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from ...ops.glu import ACTIVATIONS
from ...support.array import Array
from ..definition import Wrap
from ..faults.wraps import compose, with_arguments, with_gradients
from .activations import (
    OTHER_ACTIVATIONS,
    WRONG_CONSTANTS,
    derivatives,
    where_asked,
    with_activation,
    with_derivative,
)
from .calls import Call
from .changes import GRADIENT_CHANGES, SCALAR_CHANGES, ArrayChange, array_changes, rectified, rolled
from .degrees import Change, degrees
from .hypothesis import has_pullback
from .inner_terms import terms_of, with_term
from .low_rank_input import LOW_RANK_INPUTS, InputChange, with_low_rank_input
from .other_roots import other_roots
from .result_wraps import handed_on, mean_over_tokens, with_cotangent, with_value
from .traced import BACKWARD

_THE_TERM = "the term "
_PLACED = 50  # the rank of changes that tell an index


@dataclass(frozen=True)
class Edit:
    """says: a clause such as "mask were left out". half: "value" or "backward" if it can be there alone.

    rank: simple edits come first. gradual: the same edit to another degree (see degrees). site, family, differentiated:
    see Hypothesis.
    """

    says: str
    wrap: Wrap
    rank: int = 0
    half: str = ""
    gradual: "Callable[[float], Edit] | None" = None
    site: str = ""
    family: str = ""
    differentiated: "Edit | None" = None

    @property
    def is_of_term(self) -> bool:
        return self.site.startswith(_THE_TERM)


def edits_of(part: str, calls: list[Call], inner: bool) -> Iterator[Edit]:
    call = calls[0]
    numbers_first = sorted(call.arguments, key=lambda name: isinstance(call.arguments[name], np.ndarray))
    for name in numbers_first:
        if name != "ops":
            yield from _argument_edits(part, name, call.arguments[name], call)
    if part == "lora_linear" and call.arguments["x"].ndim > 1:
        for says, linear in LOW_RANK_INPUTS.items():
            yield Edit(f"x {says} before A", partial(with_low_rank_input, linear))
    for says, by_hand, differentiated in other_roots() if part == "rms_norm" else ():
        of_all = Edit(f"{says} (and its gradient accordingly)", differentiated, 2)
        yield Edit(says, by_hand, 1, differentiated=of_all)
    if has_pullback(part):
        if call.value is not None and call.value.dtype.kind == "f":
            for made in array_changes(part, "dy", call.value):
                yield _edit("dy", made, with_cotangent, 0, "backward")
            yield Edit("the sum over tokens were a mean", with_cotangent(mean_over_tokens), 0, "backward")
        if inner:
            yield from _result_edits(call)
        yield from _term_edits(part, call, inner)


def _term_edits(part: str, call: Call, inner: bool) -> Iterator[Edit]:
    """Edits of what is computed on the way. Inside another op, without those of one index: they would be too many."""
    for formula, (terms, t) in terms_of(part, call.arguments).items():
        half = "backward" if all(phase == BACKWARD for phase, _ in terms) else ""
        for made in array_changes(part, "", t):
            if not inner or made.rank < _PLACED:
                yield _edit(f"{_THE_TERM}{formula}", made, partial(with_term, terms), 0, half)
        if not inner and not half and t.dtype.kind == "f":
            made = ArrayChange("went through ReLU", rectified, 1)
            yield _edit(f"{_THE_TERM}{formula}", made, partial(with_term, terms))
    if part == "lora_linear":
        for made in array_changes(part, "x", call.arguments["x"]):
            if made.rank < _PLACED:
                yield _edit(f"{_THE_TERM}x in x A^T", made, _with_low_rank_x, 1)


def _with_low_rank_x(change: Change) -> Wrap:
    """lora_linear whose low-rank path gets change(x), while its backward knows nothing of that."""
    return partial(with_low_rank_input, InputChange(change, lambda dx: dx, after_dropout=True))


def _argument_edits(part: str, name: str, value: Any, call: Call) -> Iterator[Edit]:
    if isinstance(value, np.ndarray):
        for made in array_changes(part, name, value):
            differentiated = partial(_through_argument, name) if has_pullback(part) else None
            yield _edit(name, made, partial(_with_argument, name), differentiated=differentiated)
        for other, array in call.arguments.items():
            if other != name and _are_alike(array, value):
                yield Edit(f"{name} were {other}", with_arguments(**{name: partial(_taken, other)}), 1)
        if part == "attention" and name == "k":
            for says, step in (("forward", 1), ("back", -1)):
                of_both = [
                    _through_argument(n, partial(rolled, -2, step), partial(rolled, -2, -step)) for n in ("k", "v")
                ]
                both = with_arguments(**{n: partial(_applied, n, partial(rolled, -2, step)) for n in ("k", "v")})
                clause = f"k and v were rolled {says} by one token"
                of_all = Edit(f"{clause} (and their gradients accordingly)", compose(*of_both), 2)
                yield Edit(clause, both, 1, differentiated=of_all)
        if name in ("b", "mask", "key_mask", "n"):
            yield Edit(f"{name} were left out", with_arguments(**{name: lambda a: None}))
    elif isinstance(value, bool):
        yield Edit(f"{name} were {not value}", with_arguments(**{name: lambda a: not value}))
    elif isinstance(value, float):
        for says, scalar_change in SCALAR_CHANGES.items():
            yield _edit(name, ArrayChange(says, scalar_change), partial(_with_argument, name))
    elif isinstance(value, int):
        for step in (1, -1):
            yield Edit(f"{name} were {value + step}", with_arguments(**{name: partial(_constant, value + step)}))
    elif isinstance(value, list | tuple) and all(isinstance(one, float) for one in value):
        yield from _list_edits(name, value)
    elif name == "activation":
        yield from _activation_edits(value)


def _activation_edits(activation: str) -> Iterator[Edit]:
    for other in sorted(ACTIVATIONS.keys() - {activation}):
        yield Edit(f"the activation were {other}", with_arguments(activation=partial(_constant, other)))
    for other, function in OTHER_ACTIVATIONS.items():
        yield Edit(f"the activation were {other}", partial(with_activation, function))
    for says, function in WRONG_CONSTANTS.get(activation, {}).items():
        yield Edit(says, partial(where_asked, activation, function))
    for says, slope in derivatives(activation).items():
        yield Edit(says, partial(with_derivative, slope), half="backward")


def _list_edits(name: str, numbers: Sequence[float]) -> Iterator[Edit]:
    """Numbers that an argument lists, such as the weights of adapters."""
    if len(numbers) > 1:
        yield Edit(f"{name} were in the reverse order", with_arguments(**{name: lambda a: getattr(a, name)[::-1]}))
    for says, change in SCALAR_CHANGES.items():
        yield _edit(f"all {name}", ArrayChange(says, change), partial(_with_entries, name), 1)
    for i in range(len(numbers)):
        for says, change in SCALAR_CHANGES.items():
            yield _edit(f"{name}[{i}]", ArrayChange(says, change), partial(_with_entry, name, i), 1)


def _with_one(name: str, i: int, change: Change, a: SimpleNamespace) -> list[Any]:
    return [change(one) if k == i else one for k, one in enumerate(getattr(a, name))]


def _with_argument(name: str, change: Change) -> Wrap:
    return with_arguments(**{name: partial(_applied, name, change)})


def _through_argument(name: str, change: Change, transpose: Change) -> Wrap:
    return compose(_with_argument(name, change), _with_gradient(name, transpose))


def through_value(change: Change, transpose: Change) -> Wrap:
    return compose(with_value(change), with_cotangent(transpose))


def _with_entry(name: str, i: int, change: Change) -> Wrap:
    return with_arguments(**{name: partial(_with_one, name, i, change)})


def _with_entries(name: str, change: Change) -> Wrap:
    return with_arguments(**{name: lambda a: [change(one) for one in getattr(a, name)]})


def _edit(
    name: str,
    made: ArrayChange,
    wrap_of: Callable[[Change], Wrap],
    rank: int = 0,
    half: str = "",
    differentiated: Callable[[Change, Change], Wrap] | None = None,
) -> Edit:
    """The edit "name says", by degrees where it has some. differentiated(change, transpose): see Hypothesis."""
    by_degree, gradual, rank = degrees(name, made.says, made.change), None, rank + made.rank

    def edit(says: str, change: Change, transpose: Change | None) -> Edit:
        of_all = None
        if differentiated is not None and transpose is not None:
            of_all = Edit(f"{says} (and its gradient accordingly)", differentiated(change, transpose), rank + 1)
        return Edit(says, wrap_of(change), rank, half, differentiated=of_all)

    if by_degree is not None:  # those that are linear are their own transpose

        def gradual(c: float) -> Edit:
            change = by_degree.change(c)
            return edit(by_degree.says(c), change, made.transpose and change)

    plain = edit(f"{name} {made.says}", made.change, made.transpose)
    return replace(plain, gradual=gradual, site=name, family=made.family)


def _are_alike(a: Any, b: np.ndarray) -> bool:
    return isinstance(a, np.ndarray) and a.shape == b.shape and a.dtype.kind == b.dtype.kind


def _applied(name: str, change: Change, a: SimpleNamespace) -> Any:
    value = getattr(a, name)
    return None if value is None else change(value)


def _taken(other: str, a: SimpleNamespace) -> Any:
    return getattr(a, other)


def _constant(value: Any, a: SimpleNamespace) -> Any:
    return value


def _with_gradient(name: str, change: Change) -> Wrap:
    return with_gradients(**{name: partial(_changed, change)})


def _changed(change: Change, gradient: Array, a: SimpleNamespace) -> Array:
    return change(gradient)


def _result_edits(call: Call) -> Iterator[Edit]:
    """Edits of the value and of each gradient of an op inside another."""
    if call.value is not None and call.value.dtype.kind == "f":
        for made in array_changes("", "the value", call.value):
            yield _edit("the value", made, with_value, 0, "value", through_value)
    first, *_ = call.arguments.values()
    if call.value is not None and getattr(first, "shape", None) == call.value.shape:
        yield Edit("nothing were done", handed_on)
    for name, value in call.arguments.items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            for says, change in GRADIENT_CHANGES.items():
                made = ArrayChange(says, change)
                yield _edit(f"the gradient of {name}", made, partial(_with_gradient, name), 0, "backward")
