"""What a fault is: the definition with one part made wrong, and what there is to say about it.

The wrong part is given as a wrap, a function that takes the right part and returns the wrong one. So a fault goes
through every contract that uses the part, two faults can be had at once, and each is a line or two:

    parts={"lora_linear": backward(A=lambda dA, a: dA / a.scale)}         dA lacks s, everywhere
    parts={"attention": given(causal=lambda a: False)}                    the causal mask is forgotten
    answers={"lora_merge": ...}                                           something about a whole contract

In these functions `a` holds what the op was called with, by name, and in a backward `a.dy` and `a.right`, the right
pullback. They run on plain arrays and on error-carrying ones.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from ...ops import Pullback
from ...support.array import Array
from ..contracts import CONTRACTS
from ..definition import RIGHT, Definition, Wrap

Change = Callable[..., Any]
AnswerFunction = Callable[..., dict[str, Array]]


@dataclass(frozen=True)
class Fault:
    """id: of the catalogue ("S4"); variant: which of several ways to have it, or "". says: one sentence that a kernel
    engineer can act on. wrong and right: the formulas. hidden: the settings under which no test can see it. source:
    where it was seen. parts: of the definition, made wrong; answers: whole contracts, made wrong. objection: what the
    contract says of what the subject drew, where no number is wrong for it.
    """

    id: str
    says: str
    wrong: str
    right: str
    hidden: str = ""
    source: str = ""
    variant: str = ""
    parts: Mapping[str, Wrap] = field(default_factory=dict, repr=False)
    answers: Mapping[str, Wrap] = field(default_factory=dict, repr=False)
    objection: str = ""

    @property
    def name(self) -> str:
        """The id, and the variant where there are several: "S5/dB"."""
        return f"{self.id}/{self.variant}" if self.variant else self.id


def wrong_answer(contract: str, *faults: Fault) -> AnswerFunction:
    """answer(arrays, config) of the contract with these faults in it."""
    definition, answer = RIGHT, CONTRACTS[contract].answer
    for fault in faults:
        definition = definition.wrapped(**fault.parts)
        if contract in fault.answers:
            answer = fault.answers[contract](answer)
    return lambda arrays, config: answer(arrays, config, definition)


def in_steps(*wraps: Wrap) -> Wrap:
    """Several wraps, the first one innermost."""
    return lambda op: functools.reduce(lambda inner, wrap: wrap(inner), wraps, op)


def given(**changes: Change) -> Wrap:
    """The op is called with other arguments: name = function(a)."""

    def wrap(op: Any) -> Any:
        @functools.wraps(op)
        def wrong(*args: Any, **kwargs: Any) -> Any:
            a = _bind(op, args, kwargs)
            return op(**{**vars(a), **{name: change(a) for name, change in changes.items()}})

        return wrong

    return wrap


def value(change: Change) -> Wrap:
    """The op's value is change(y, a); its pullback is as it was."""

    def wrap(op: Any) -> Any:
        @functools.wraps(op)
        def wrong(*args: Any, **kwargs: Any) -> Any:
            y, pullback = op(*args, **kwargs)
            return change(y, _bind(op, args, kwargs)), pullback

        return wrong

    return wrap


def backward(**changes: Change) -> Wrap:
    """The op's gradients are name = change(gradient, a); its value is as it was."""

    def wrap(op: Any) -> Any:
        @functools.wraps(op)
        def wrong(*args: Any, **kwargs: Any) -> Any:
            y, right = op(*args, **kwargs)
            a = _bind(op, args, kwargs)

            def gradients(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
                context = SimpleNamespace(**vars(a), dy=dy, right=right)
                return {
                    name: changes[name](grad, context) if name in changes else grad
                    for name, grad in right(dy, wrt=wrt).items()
                }

            return y, Pullback(gradients, y, right.inputs, right.frozen)

        return wrong

    return wrap


def outputs(**changes: Change) -> Wrap:
    """A contract's answers are name = change(right output, arrays, config)."""

    def wrap(answer: AnswerFunction) -> AnswerFunction:
        def wrong(arrays: Mapping[str, Array], config: dict[str, Any], d: Definition) -> dict[str, Array]:
            right = answer(arrays, config, d)
            return {
                name: changes[name](output, arrays, config) if name in changes else output
                for name, output in right.items()
            }

        return wrong

    return wrap


def asked(arrays: Change | None = None, config: Change | None = None) -> Wrap:
    """A contract is answered for other arrays(arrays, config) or another config(arrays, config)."""

    def wrap(answer: AnswerFunction) -> AnswerFunction:
        def wrong(given: Mapping[str, Array], how: dict[str, Any], d: Definition) -> dict[str, Array]:
            changed = {**given, **arrays(given, how)} if arrays else given
            return answer(changed, {**how, **config(given, how)} if config else how, d)

        return wrong

    return wrap


def _bind(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> SimpleNamespace:
    """The arguments by name, defaults filled in."""
    bound = _signature(inspect.unwrap(op)).bind(*args, **kwargs)  # cached by what is wrapped: wrappers come and go
    bound.apply_defaults()
    return SimpleNamespace(**bound.arguments)


@functools.cache
def _signature(op: Any) -> inspect.Signature:
    return inspect.signature(op)


def as_numpy(t: Array) -> Any:
    """The plain numbers of an array that may carry errors: ids, masks, what is exact."""
    return getattr(t, "value", t)
