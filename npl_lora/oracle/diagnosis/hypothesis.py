"""A hypothesis: one way to be wrong, and what an implementation that is wrong in this way answers.

A fault of the catalogue is a hypothesis. So are its halves, in which only the value or only the gradients of the op are
wrong, and the generated edits of `edits`. All of them are definitions with a wrap in some part.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, wraps
from typing import Any

from ...ops import Pullback
from ...support.array import Array
from ..contracts import CONTRACTS
from ..contracts.contract import scales
from ..definition import RIGHT, AnswerFunction, Config, Wrap
from ..faults import Fault, wrong_answer
from ..faults.lora_path import LORA_OPS
from ..faults.relevant import parts_used
from ..faults.wraps import in_value, with_arguments


@dataclass(frozen=True)
class Hypothesis:
    """says: a clause without a full stop. fault: the entry of the catalogue, if it is one. rank: simple ones are low.

    half: "value" or "backward" where only that half of each op is wrong, else "".
    gradual: for a mistake that can be made by degrees, the same one to another degree: 1 for this one, 0 for none.
    is_fitted: whether its degree was found from the numbers.
    value: the value of the contract's op alone, where that is less work. is_in_halves: whether another hypothesis has
    this mistake in the backward alone.
    is_of_term: whether it is an edit of a term inside an op. is_of_argument: of what goes into an op, in all its calls.
    site: the array that it changes.
    family: hypotheses of one family move each output along much the same direction.
    differentiated: the same mistake where the gradients are those of what is computed then.
    """

    says: str
    answer: AnswerFunction = field(repr=False)
    rank: int
    fault: Fault | None = None
    half: str = ""
    gradual: "Callable[[float], Hypothesis] | None" = field(default=None, repr=False)
    is_fitted: bool = False
    value: AnswerFunction | None = field(default=None, repr=False)
    is_in_halves: bool = False
    is_of_term: bool = False
    is_of_argument: bool = False
    site: str = ""
    family: str = ""
    differentiated: "Hypothesis | None" = field(default=None, repr=False)


def of_fault(contract: str, fault: Fault) -> Hypothesis:
    """The fault as the catalogue has it."""
    return Hypothesis(fault.says, wrong_answer(contract, fault), 0, fault)


def halves_of_fault(contract: str, fault: Fault) -> list[Hypothesis]:
    """The same mistake in the values of the ops alone, and in their gradients alone."""
    halves = []
    for half, take in HALVES.items():
        parts = {name: take(wrap) for name, wrap in fault.parts.items() if has_pullback(name)}
        if parts.keys() & parts_used(contract):
            halves.append(Hypothesis(fault.says, with_parts(contract, parts), 1, fault, half))
        if "scale" in fault.parts:
            halves.append(
                Hypothesis(fault.says, _with_half_scale(contract, fault.parts["scale"], half), 1, fault, half)
            )
    return halves


def with_parts(contract: str, parts: Mapping[str, Wrap]) -> AnswerFunction:
    """The contract's answer, from a definition with these parts wrapped. Each answer starts with a new definition."""
    right = CONTRACTS[contract].answer

    def answer(arrays: Mapping[str, Array], config: Config) -> dict[str, Array]:
        return right(arrays, config, RIGHT.wrapped(**parts))

    return answer


def value_with_parts(contract: str, parts: Mapping[str, Wrap]) -> AnswerFunction:
    """The value of that answer alone."""
    value = CONTRACTS[contract].value
    return lambda arrays, config: value(arrays, config, RIGHT.wrapped(**parts))


def _with_half_scale(contract: str, wrap: Wrap, half: str) -> AnswerFunction:
    """The scale is one number for value and gradients. So its halves are those of the ops that take it."""

    def answer(arrays: Mapping[str, Array], config: Config) -> dict[str, Array]:
        wrong = RIGHT.wrapped(scale=wrap)
        if contract == "lora_batched":
            parts = {contract: HALVES[half](with_arguments(scales=lambda a: scales(config, wrong)))}
        else:
            s = wrong.scale(config)
            parts = dict.fromkeys(LORA_OPS, HALVES[half](with_arguments(scale=lambda a: s)))
        return with_parts(contract, parts)(arrays, config)

    return answer


def backward_alone(wrap: Wrap) -> Wrap:
    """The right value, with the wrap's pullback."""

    def half(op: Any) -> Any:
        wrong = wrap(op)

        @wraps(op)
        def mixed(*args: Any, **kwargs: Any) -> tuple[Array, Pullback]:
            y, _ = op(*args, **kwargs)
            _, pullback = wrong(*args, **kwargs)
            return y, Pullback(lambda dy, wrt: pullback(dy, wrt=wrt), y, pullback.inputs, pullback.frozen)

        return mixed

    return half


HALVES = {"value": in_value, "backward": backward_alone}


@cache
def has_pullback(part: str) -> bool:
    """Whether a part of the definition is an op, which returns its value and its pullback."""
    return "Pullback" in str(inspect.signature(inspect.unwrap(getattr(RIGHT, part))).return_annotation)
