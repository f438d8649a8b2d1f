"""Wraps: functions that take something right, an op or a contract's answer, and return it with one thing wrong.

For a part of the definition:

    with_arguments(causal=lambda a: False)          the op is called with other arguments
    with_gradients(A=lambda dA, a: dA / a.scale)    some of its gradients are changed
    in_value(wrap), in_gradients("A")(wrap)         a wrap in the value alone, or in some gradients alone

For a contract:

    with_question(config=lambda arrays, config: {"weights": [1.0]})     it answers another question
    with_outputs(delta=lambda delta, arrays, config: 2.0 * delta)       some of its outputs are changed
    with_parts(lambda arrays, config: {"rope": wrap})                   its parts are changed, as the question says

In the first two, `a` holds the arguments of the call by name, defaults included; in with_gradients also `a.dy` and
`a.right`, the right pullback. A wrap runs on plain arrays and on error-carrying ones. `compose` applies several wraps.
A wrap that fits none of these is a function of its own.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from ...ops import Pullback
from ...support.array import Array
from ..definition import AnswerFunction, Config, Definition, Wrap

Arrays = Mapping[str, Array]
ArgumentChange = Callable[[SimpleNamespace], Any]  # (a) -> the argument
GradientChange = Callable[[Array, SimpleNamespace], Array]  # (gradient, a) -> gradient
OutputChange = Callable[[Array, Arrays, Config], Array]  # (output, arrays, config) -> output
PartsChange = Callable[[Arrays, Config], Mapping[str, Wrap]]  # (arrays, config) -> wraps of parts
QuestionChange = Callable[[Arrays, Config], Mapping[str, Any]]  # (arrays, config) -> the entries that change

ATTENTION = ("lora_attention", "lora_attention_projections")  # the contracts that attend


def compose(*wraps: Wrap) -> Wrap:
    """Several wraps as one; the first is innermost."""
    return lambda op: functools.reduce(lambda inner, wrap: wrap(inner), wraps, op)


def with_arguments(**changes: ArgumentChange) -> Wrap:
    """Call the op with argument = change(a)."""

    def wrap(op: Any) -> Any:
        @functools.wraps(op)
        def wrong(*args: Any, **kwargs: Any) -> Any:
            a = _bind(op, args, kwargs)
            return op(**{**vars(a), **{name: change(a) for name, change in changes.items()}})

        return wrong

    return wrap


def with_gradients(**changes: GradientChange) -> Wrap:
    """Replace the op's gradients by change(gradient, a). Its value stays right."""

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


def in_value(wrap: Wrap) -> Wrap:
    """The wrap in the op's value alone: its gradients stay right."""

    def changed(op: Any) -> Any:
        @functools.wraps(op)
        def wrong(*args: Any, **kwargs: Any) -> Any:
            y, _ = wrap(op)(*args, **kwargs)
            _, right = op(*args, **kwargs)
            return y, Pullback(lambda dy, wrt: right(dy, wrt=wrt), y, right.inputs, right.frozen)

        return wrong

    return changed


def in_gradients(*names: str) -> Callable[[Wrap], Wrap]:
    """The wrap in these gradients alone: the op's value and its other gradients stay right."""

    def limited(wrap: Wrap) -> Wrap:
        def changed(op: Any) -> Any:
            @functools.wraps(op)
            def wrong(*args: Any, **kwargs: Any) -> Any:
                y, right = op(*args, **kwargs)
                _, other = wrap(op)(*args, **kwargs)

                def gradients(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
                    return {**right(dy, wrt=wrt), **other(dy, wrt=wrt & set(names))}

                return y, Pullback(gradients, y, right.inputs, right.frozen)

            return wrong

        return changed

    return limited


def with_outputs(**changes: OutputChange) -> Wrap:
    """Replace a contract's outputs by change(output, arrays, config)."""

    def wrap(answer: AnswerFunction) -> AnswerFunction:
        def wrong(arrays: Arrays, config: Config, d: Definition) -> dict[str, Array]:
            right = answer(arrays, config, d)
            return {
                name: changes[name](output, arrays, config) if name in changes else output
                for name, output in right.items()
            }

        return wrong

    return wrap


def with_question(arrays: QuestionChange | None = None, config: QuestionChange | None = None) -> Wrap:
    """Answer the contract for other arrays or another config. Each change returns the entries that differ."""

    def wrap(answer: AnswerFunction) -> AnswerFunction:
        def wrong(asked: Arrays, settings: Config, d: Definition) -> dict[str, Array]:
            other_arrays = {**asked, **arrays(asked, settings)} if arrays else asked
            other_config = {**settings, **config(asked, settings)} if config else settings
            return answer(other_arrays, other_config, d)

        return wrong

    return wrap


def with_parts(parts: PartsChange) -> Wrap:
    """Answer with parts of the definition that are wrong in a way that depends on the question."""

    def wrap(answer: AnswerFunction) -> AnswerFunction:
        def wrong(arrays: Arrays, config: Config, d: Definition) -> dict[str, Array]:
            return answer(arrays, config, d.wrapped(**parts(arrays, config)))

        return wrong

    return wrap


def _bind(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> SimpleNamespace:
    """The arguments by name, with the defaults filled in."""
    names, defaults = _parameters(inspect.unwrap(op))  # the cache keeps ops, not their short-lived wrappers
    return SimpleNamespace(**{**defaults, **dict(zip(names, args, strict=False)), **kwargs})


@functools.cache
def _parameters(op: Any) -> tuple[list[str], dict[str, Any]]:
    """The names of an op's parameters, and the defaults of those that have one."""
    parameters = inspect.signature(op).parameters
    return list(parameters), {name: p.default for name, p in parameters.items() if p.default is not p.empty}


def as_numpy(t: Array) -> Any:
    """The plain numbers of an array that may carry errors: ids, masks, labels."""
    return getattr(t, "value", t)
