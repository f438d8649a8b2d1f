"""Generated edits: mistakes that the catalogue does not hold, each a small change of one thing in one op.

    an argument       left out, doubled, halved, negated, squared, transposed, rolled by one place, taken from another
                      argument of its shape; one of its rows, tokens, heads or ranks left out, counted twice or taken
                      from its neighbour
    dy                the same, and the mean over the tokens in the place of the sum
    the value         of an op inside another: the same, or the input handed on
    a gradient        of an op inside another: lost, doubled, negated
    an output         of the contract: the same
    a term            that an op computes on the way, as h = x A^T in lora_linear: the same
    the activation    another function

An op that a contract consists of is edited as a whole: its outputs are compared one by one, so value and gradients need
no edits of their own. An op inside another is also edited in its value alone and in its backward alone, and in a single
one of its calls. An edit says what it does, and names no fault.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from ...ops.glu import ACTIVATIONS
from ...support.array import Array
from ..case import Case, widen
from ..contracts import CONTRACTS
from ..definition import RIGHT, AnswerFunction, Config, Wrap
from ..faults.wraps import with_arguments, with_gradients
from ..tolerance.statistics import Distribution
from .activations import OTHER_ACTIVATIONS, with_activation
from .calls import Call, in_calls, record
from .changes import GRADIENT_CHANGES, SCALAR_CHANGES, ArrayChange, array_changes, rectified, rolled
from .degrees import Change, degrees
from .hypothesis import HALVES, Hypothesis, has_pullback, value_with_parts, with_parts
from .inner_terms import terms_of, with_term
from .low_rank_input import LOW_RANK_INPUTS, InputChange, with_low_rank_input
from .result_wraps import handed_on, mean_over_tokens, with_both, with_cotangent, with_value
from .traced import BACKWARD
from .words import listed

_CALLS = 4  # edited one by one
_THE_TERM = "the term "
_RANKS = (10, 20, 30, 40)  # of an edit, of its halves, of it in some calls, of its halves there
_TERM_RANKS = (50, 51, 52, 53)  # an argument's come first
_PLACED = 50  # the rank of changes that do
PLACED = 60  # the rank of hypotheses from which on they tell an index


@dataclass(frozen=True)
class Edit:
    """says: a clause such as "mask were left out". half: "value" or "backward" if it can be there alone.

    rank: simple edits come first. gradual: the same edit to another degree (see degrees). site, family: see Hypothesis.
    """

    says: str
    wrap: Wrap
    rank: int = 0
    half: str = ""
    gradual: "Callable[[float], Edit] | None" = None
    site: str = ""
    family: str = ""

    @property
    def is_of_term(self) -> bool:
        return self.site.startswith(_THE_TERM)


def edits(case: Case) -> Iterator[Hypothesis]:
    """Every edit of what is called to answer this case."""
    calls = record(case)
    for part, of_part in calls.items():
        inner = part != case.contract
        for edit in _edits_of(part, of_part, inner):
            yield from _hypotheses(case, part, of_part, edit, inner)


def question_edits(case: Case) -> Iterator[Hypothesis]:
    """Every edit of one array of the case, for a contract that no single op answers."""
    right = CONTRACTS[case.contract].answer
    for name, array in case.arrays.items() if not hasattr(RIGHT, case.contract) else ():
        for change in array_changes("", name, array):
            yield _of_change(name, change, partial(_with_array, right, name), 12)


def _with_array(right: AnswerFunction, name: str, change: Change) -> AnswerFunction:
    def answer(arrays: Mapping[str, Array], config: Config) -> dict[str, Array]:
        return right({n: change(t) if n == name else t for n, t in arrays.items()}, config)

    return answer


def output_edits(case: Case) -> Iterator[Hypothesis]:
    """Every edit of one output of the contract as a whole."""
    right = _remembered(CONTRACTS[case.contract].answer)
    for output, value in right(widen(case), case.config).items():
        if isinstance(value, Distribution):
            continue
        for change in array_changes("", output, np.asarray(value)):
            yield _of_change("it", change, partial(_with_output, right, output), 15)


def _of_change(name: str, made: ArrayChange, answer_of: Callable[[Change], AnswerFunction], rank: int) -> Hypothesis:
    by_degree, rank = degrees(name, made.says, made.change), rank + made.rank
    gradual = None
    if by_degree is not None:
        gradual = lambda c: Hypothesis(by_degree.says(c), answer_of(by_degree.change(c)), rank + 3)  # noqa: E731
    return Hypothesis(f"{name} {made.says}", answer_of(made.change), rank, gradual=gradual)


def _remembered(answer: AnswerFunction) -> AnswerFunction:
    """The same, computed once for plain arrays: many edits change nothing but one output of it."""
    known: dict[tuple[Any, ...], dict[str, Array]] = {}

    def remembered(arrays: Mapping[str, Array], config: Config) -> dict[str, Array]:
        if not all(isinstance(t, np.ndarray) for t in arrays.values()):
            return answer(arrays, config)
        question = (repr(config), *((name, t.shape, t.tobytes()) for name, t in arrays.items()))
        if question not in known:
            known[question] = answer(arrays, config)
        return dict(known[question])

    return remembered


def _with_output(right: AnswerFunction, output: str, change: Change) -> AnswerFunction:
    def answer(arrays: Mapping[str, Array], config: Config) -> dict[str, Array]:
        outputs = right(arrays, config)
        drawn = isinstance(outputs.get(output), Distribution)  # in some cases, and numbers in others
        return {name: change(t) if name == output and not drawn else t for name, t in outputs.items()}

    return answer


def _hypotheses(case: Case, part: str, calls: list[Call], edit: Edit, inner: bool) -> Iterator[Hypothesis]:
    place, ranks = f" in {part}" if inner else "", _TERM_RANKS if edit.is_of_term else _RANKS
    yield _hypothesis(case, part, edit, _as_it_is, place, edit.half, ranks[0])
    if not inner:
        return
    halves = HALVES if has_pullback(part) and not edit.half else {}
    for half, take in halves.items():
        yield _hypothesis(case, part, edit, take, place, half, ranks[1])
    for numbers in _groups(len(calls)) if edit.rank == 0 else ():
        of_calls = f"{place} ({listed([_name_of_call(case, calls[n], n) for n in numbers])})"
        yield _hypothesis(case, part, edit, partial(_in_calls, numbers, _as_it_is), of_calls, edit.half, ranks[2])
        for half, take in halves.items():
            yield _hypothesis(case, part, edit, partial(_in_calls, numbers, take), of_calls, half, ranks[3])


def _groups(calls: int) -> list[tuple[int, ...]]:
    """Each call alone, and all but the last, as when q, k and v are one projection."""
    if not 1 < calls <= _CALLS:
        return []
    singles: list[tuple[int, ...]] = [(n,) for n in range(calls)]
    return [*singles, tuple(range(calls - 1))] if calls > 2 else singles


def _as_it_is(wrap: Wrap) -> Wrap:
    return wrap


def _in_calls(numbers: tuple[int, ...], take: Callable[[Wrap], Wrap], wrap: Wrap) -> Wrap:
    return in_calls(take(wrap), numbers)


def _hypothesis(
    case: Case, part: str, edit: Edit, take: Callable[[Wrap], Wrap], place: str, half: str, rank: int
) -> Hypothesis:
    """The edit in what `take` takes of it: its value or backward alone, or some calls."""
    parts = {part: take(edit.wrap)}
    answer = with_parts(case.contract, parts)
    alone = {"": "", "value": ", in the value alone", "backward": ", in the backward alone"}[half if place else ""]
    by_degree, gradual = edit.gradual, None
    if by_degree is not None:  # a plain mistake comes before one by degrees
        gradual = lambda c: _hypothesis(case, part, by_degree(c), take, place, half, rank + 3)  # noqa: E731
    return Hypothesis(
        f"{edit.says}{place}{alone}",
        answer,
        rank + edit.rank,
        half=half,
        gradual=gradual,
        value=None if half == "backward" else value_with_parts(case.contract, parts),
        is_in_halves=bool(place) and has_pullback(part),
        is_of_term=edit.is_of_term,
        is_of_argument=not place and not half and not edit.is_of_term,
        site=edit.site and f"{edit.site}{place}{alone}",
        family=edit.family and f"{edit.site}, {edit.family}{place}{alone}",
    )


def _name_of_call(case: Case, call: Call, number: int) -> str:
    """The weight of the case that goes into this call, or its number."""
    for argument in call.arguments.values():
        for name, array in case.arrays.items():
            same = isinstance(argument, np.ndarray) and argument.shape == array.shape
            if name.startswith("W") and name != "W" and same and np.array_equal(argument, array):
                return name
    return f"call {number + 1}"


def _edits_of(part: str, calls: list[Call], inner: bool) -> Iterator[Edit]:
    call = calls[0]
    numbers_first = sorted(call.arguments, key=lambda name: isinstance(call.arguments[name], np.ndarray))
    for name in numbers_first:
        if name != "ops":
            yield from _argument_edits(part, name, call.arguments[name], call)
    if part == "lora_linear" and call.arguments["x"].ndim > 1:
        for says, linear in LOW_RANK_INPUTS.items():
            yield Edit(f"x {says} before A", partial(with_low_rank_input, linear))
    if has_pullback(part):
        if call.value is not None and call.value.dtype.kind == "f":
            for made in array_changes(part, "dy", call.value):
                yield _edit("dy", made, with_cotangent, 0, "backward")
            yield Edit("the sum over tokens were a mean", with_cotangent(mean_over_tokens), 0, "backward")
        if not inner:
            yield from _factors_of_the_input(call)
        if inner:
            yield from _result_edits(call)
        yield from _term_edits(part, call, inner)


def _factors_of_the_input(call: Call) -> Iterator[Edit]:
    """A factor that the backward knows: a temperature, x in other units."""
    first, *_ = call.arguments
    if getattr(call.arguments[first], "dtype", np.dtype(bool)).kind == "f":
        for says, factor in (("were doubled", 2.0), ("were halved", 0.5)):
            yield _edit(
                f"{first} and its gradient", ArrayChange(says, partial(_times, factor)), partial(with_both, first)
            )


def _times(factor: float, t: Array) -> Array:
    return factor * t


def _term_edits(part: str, call: Call, inner: bool) -> Iterator[Edit]:
    """Edits of what is computed on the way. Inside another op, without those of one index: they would be too many."""
    for formula, (terms, t) in terms_of(part, call.arguments).items():
        half = "backward" if all(phase == BACKWARD for phase, _ in terms) else ""
        for made in array_changes(part, "", t):
            if not inner or made.rank < _PLACED:
                yield _edit(f"{_THE_TERM}{formula}", made, partial(with_term, terms), 0, half)
        if not inner and not half and t.dtype.kind == "f":
            made = ArrayChange("went through ReLU", rectified, 1)
            yield _edit(f"{_THE_TERM}{formula}", made, partial(with_term, terms), 0)
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
            yield _edit(name, made, partial(_with_argument, name))
        for other, array in call.arguments.items():
            if other != name and _are_alike(array, value):
                yield Edit(f"{name} were {other}", with_arguments(**{name: partial(_taken, other)}), 1)
        if part == "attention" and name == "k":
            for says, step in (("forward", 1), ("back", -1)):
                roll = partial(rolled, -2, step)
                both = {n: partial(_applied, n, roll) for n in ("k", "v")}
                yield Edit(f"k and v were rolled {says} by one token", with_arguments(**both), 1)
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
        for other in sorted(ACTIVATIONS.keys() - {value}):
            yield Edit(f"the activation were {other}", with_arguments(activation=partial(_constant, other)))
        for other, function in OTHER_ACTIVATIONS.items():
            yield Edit(f"the activation were {other}", partial(with_activation, function))


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


def _with_entry(name: str, i: int, change: Change) -> Wrap:
    return with_arguments(**{name: partial(_with_one, name, i, change)})


def _with_entries(name: str, change: Change) -> Wrap:
    return with_arguments(**{name: lambda a: [change(one) for one in getattr(a, name)]})


def _edit(name: str, made: ArrayChange, wrap_of: Callable[[Change], Wrap], rank: int = 0, half: str = "") -> Edit:
    """The edit "name says", by degrees where it has some."""
    by_degree, gradual, rank = degrees(name, made.says, made.change), None, rank + made.rank
    if by_degree is not None:
        gradual = lambda c: Edit(by_degree.says(c), wrap_of(by_degree.change(c)), rank, half)  # noqa: E731
    return Edit(f"{name} {made.says}", wrap_of(made.change), rank, half, gradual, name, made.family)


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
            yield _edit("the value", made, with_value, 0, "value")
    first, *_ = call.arguments.values()
    if call.value is not None and getattr(first, "shape", None) == call.value.shape:
        yield Edit("nothing were done", handed_on)
    for name, value in call.arguments.items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            for says, change in GRADIENT_CHANGES.items():
                made = ArrayChange(says, change)
                yield _edit(f"the gradient of {name}", made, partial(_with_gradient, name), 0, "backward")
