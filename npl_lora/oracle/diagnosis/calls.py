"""What the parts of the definition are called with when the right answer to a case is computed."""

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np

from ..case import Case, widen
from ..contracts import CONTRACTS
from ..definition import RIGHT, Wrap


@dataclass(frozen=True)
class Call:
    """One call of a part: its arguments by name, and its value where that is an array."""

    arguments: Mapping[str, Any]
    value: np.ndarray | None


def record(case: Case) -> dict[str, list[Call]]:
    """{part: its calls in order}, for every part that takes arrays."""
    calls: dict[str, list[Call]] = {}
    contract = CONTRACTS[case.contract]
    recorders = {name: _recorder(name, calls) for name in vars(RIGHT) if name not in ("scale", "low_rank")}
    contract.answer(widen(case), case.config, RIGHT.wrapped(**recorders))
    return calls


def _recorder(name: str, calls: dict[str, list[Call]]) -> Wrap:
    def wrap(part: Any) -> Any:
        signature = inspect.signature(inspect.unwrap(part))

        @wraps(part)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            result = part(*args, **kwargs)
            value = result[0] if isinstance(result, tuple) else result
            calls.setdefault(name, []).append(Call(dict(bound.arguments), value if np.ndim(value) else None))
            return result

        return recorded

    return wrap


def in_calls(wrap: Wrap, numbers: Collection[int]) -> Wrap:
    """The wrap in these calls alone, counted from 0 since the definition was made."""

    def some(part: Any) -> Any:
        wrong, calls = wrap(part), iter(range(1_000_000))

        @wraps(part)
        def counted(*args: Any, **kwargs: Any) -> Any:
            return (wrong if next(calls) in numbers else part)(*args, **kwargs)

        return counted

    return some
