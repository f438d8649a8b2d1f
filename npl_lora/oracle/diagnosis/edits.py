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

An argument or a value that a linear change went through may hand back its gradient as it is, as code does whose
backward is written by hand, or through the transpose of the change, as automatic differentiation does. The latter is
tried where the value is what came back.

An op that a contract consists of is edited as a whole: its outputs are compared one by one, so value and gradients need
no edits of their own. An op inside another is also edited in its value alone and in its backward alone, and in a single
one of its calls. An edit says what it does, and names no fault.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from ...support.array import Array
from ..case import Case, widen
from ..contracts import CONTRACTS
from ..definition import RIGHT, AnswerFunction, Config, Wrap
from ..tolerance.statistics import Distribution
from .calls import Call, in_calls, record
from .changes import ArrayChange, array_changes, rolled
from .degrees import Change, degrees
from .hypothesis import HALVES, Hypothesis, has_pullback, value_with_parts, with_parts
from .part_edits import Edit, edits_of, through_value
from .words import listed

_CALLS = 4  # edited one by one
_RANKS = (10, 20, 30, 40)  # of an edit, of its halves, of it in some calls, of its halves there
_TERM_RANKS = (50, 51, 52, 53)  # an argument's come first
PLACED = 60  # the rank of hypotheses from which on they tell an index


def edits(case: Case) -> Iterator[Hypothesis]:
    """Every edit of what is called to answer this case."""
    calls = record(case)
    for part, of_part in calls.items():
        inner = part != case.contract
        for edit in edits_of(part, of_part, inner):
            yield from _hypotheses(case, part, of_part, edit, inner)
        if part == "lora_linear" and "rope" in calls:
            yield from _rolled_before_rope(case, of_part)


def _rolled_before_rope(case: Case, calls: list[Call]) -> Iterator[Hypothesis]:
    """Keys and values moved by one token, as where a causal mask leaves out the token itself."""
    numbers = tuple(n for n, call in enumerate(calls) if _name_of_call(case, call, n) in ("Wk", "Wv"))
    for says, step in (("forward", 1), ("back", -1)) if len(numbers) == 2 else ():
        wrap = through_value(partial(rolled, -2, step), partial(rolled, -2, -step))
        edit = Edit(f"k and v were rolled {says} by one token before rope (and their gradients accordingly)", wrap)
        yield _hypothesis(case, "lora_linear", edit, partial(_in_calls, numbers, _as_it_is), "", "", 11)


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
    of_all = edit.differentiated if half == edit.half else None
    return Hypothesis(
        f"{edit.says}{place}{alone}",
        answer,
        rank + edit.rank,
        half=half,
        gradual=gradual,
        value=None if half == "backward" else value_with_parts(case.contract, parts),
        is_in_halves=bool(place) and has_pullback(part),
        is_of_term=edit.is_of_term,
        is_of_argument=rank == _RANKS[0] and not half and not edit.is_of_term,
        site=edit.site and f"{edit.site}{place}{alone}",
        family=edit.family and f"{edit.site}, {edit.family}{place}{alone}",
        differentiated=None if of_all is None else _hypothesis(case, part, of_all, take, place, "", rank),
    )


def _name_of_call(case: Case, call: Call, number: int) -> str:
    """The weight of the case that goes into this call, or its number."""
    for argument in call.arguments.values():
        for name, array in case.arrays.items():
            same = isinstance(argument, np.ndarray) and argument.shape == array.shape
            if name.startswith("W") and name != "W" and same and np.array_equal(argument, array):
                return name
    return f"call {number + 1}"
