"""A Python function asked in this process: how the worker asks, and the pytest plugin."""

import copy
import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..case import Case
from . import Answer
from .convert import AnswerError, to_arrays
from .one_line import describe, first_line

CALLS = 2  # a case is asked twice: state must not leak from a call to the next

Function = Callable[[Case], Any]


def ask(function: Function, case: Case) -> Answer:
    """Ask again and again, each time on copies of its own."""
    outputs: list[dict[str, np.ndarray]] = []
    for call in range(CALLS):
        again = "the second call: " if call else ""
        given = dataclasses.replace(case.copy(), config=copy.deepcopy(case.config))
        try:
            answer = function(given)
        except NotImplementedError as error:
            if not call:
                return Answer(absent=first_line(str(error)) or "not supported")
            return Answer(error=again + describe(error))
        except Exception as error:  # the subject's, whatever it is
            return Answer(error=again + describe(error))
        try:
            outputs.append(to_arrays(answer))
        except AnswerError as error:
            return Answer(error=again + str(error))
        if changed := _changed(case, given):
            return Answer(error=f"{again}changed its input {', '.join(changed)}")
    return Answer(outputs=tuple(outputs))


def _changed(case: Case, given: Case) -> list[str]:
    """The inputs that are no longer what they were."""
    names = [name for name, array in case.arrays.items() if not _same(array, given.arrays.get(name))]
    return names if _text(given.config) == _text(case.config) else [*names, "config"]


def _same(a: np.ndarray, b: np.ndarray | None) -> bool:
    return b is not None and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _text(config: Mapping[str, Any]) -> str | None:
    try:
        return json.dumps(config, sort_keys=True)
    except (TypeError, ValueError, RecursionError):  # something was put in that never was in a case
        return None
