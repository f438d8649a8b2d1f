"""Edits of one term inside an op, such as h = x A^T in lora_linear, or of its gradient. See `traced`."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import Any

import numpy as np

from ...ops import Pullback
from ...support.array import Array
from ..definition import RIGHT, Wrap
from .traced import BACKWARD, Term, Trace, bare

_READABLE = 80  # characters: a longer formula tells nobody anything

Change = Callable[[Array], Array]


def terms_of(part: str, arguments: Mapping[str, Any]) -> dict[str, tuple[frozenset[Term], np.ndarray]]:
    """{formula: (where it is computed, its numbers)} for the terms of one call, but for its value and gradients.

    A part that takes other ops as an argument has none of its own: they have. Nor has rope: its terms are products of
    halves of features and tables, which no formula tells apart.
    """
    if part == "rope" or "ops" in arguments or any(p.kind is p.VAR_KEYWORD for p in _parameters(part)):
        return {}
    trace = Trace()
    with np.errstate(all="ignore"):
        y, pullback = _call(trace, getattr(RIGHT, part), arguments)
        grads = _gradients(trace, pullback, y.t if y.shape != () else 1.0)
    results = {one.formula for one in (y, *grads.values()) if hasattr(one, "formula")}
    found: dict[str, tuple[frozenset[Term], np.ndarray]] = {}
    for (phase, formula), t in trace.terms.items():
        t = np.asarray(t)
        if formula in results | trace.scaled | arguments.keys() or len(formula) > _READABLE:
            continue
        if t.ndim == 0 or t.size < 2 or t.dtype.kind not in "fb" or formula.endswith("(max)"):
            continue
        phases, _ = found.get(formula, (frozenset(), t))
        found[formula] = (phases | {(phase, formula)}, t)
    return found


def _parameters(part: str) -> list[inspect.Parameter]:
    return list(inspect.signature(inspect.unwrap(getattr(RIGHT, part))).parameters.values())


def with_term(terms: frozenset[Term], change: Change) -> Wrap:
    """The op with change(term) in the place of these terms."""
    return partial(_with_term, terms, change)


def _with_term(terms: frozenset[Term], change: Change, op: Any) -> Any:
    signature = inspect.signature(inspect.unwrap(op))

    @wraps(op)
    def wrong(*args: Any, **kwargs: Any) -> tuple[Array, Pullback]:
        trace = Trace(terms, change)
        y, pullback = _call(trace, op, signature.bind(*args, **kwargs).arguments)

        def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
            return bare(_gradients(trace, pullback, dy, wrt))

        return bare(y), Pullback(backward, y, pullback.inputs, pullback.frozen)

    return wrong


def _call(trace: Trace, op: Any, arguments: Mapping[str, Any]) -> tuple[Any, Pullback]:
    y, pullback = op(**{name: trace.argument(name, value) for name, value in arguments.items()})
    return y, pullback


def _gradients(trace: Trace, pullback: Pullback, dy: Any, wrt: Any = None) -> dict[str, Any]:
    """From a fresh start, for a pullback may be called several times."""
    trace.phase = BACKWARD
    trace.terms = {term: t for term, t in trace.terms.items() if term[0] != BACKWARD}
    return pullback(trace.argument("dy", dy), wrt=wrt)
