"""Asks a Python function in this process, for the worker and for npl_lora.testing."""

import copy
import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..case import Case
from ..one_line import describe_with_place, first_line
from . import Answer
from .convert import AnswerError, to_arrays

CALLS = 2  # a case is asked twice, to show that no state leaks from one call to the next

Function = Callable[[Case], Any]


def ask(function: Function, case: Case) -> Answer:
    """Ask CALLS times, each time on fresh copies."""
    outputs: list[dict[str, np.ndarray]] = []
    for call in range(CALLS):
        again = "the second call: " if call else ""
        copied = dataclasses.replace(case.copy(), config=copy.deepcopy(case.config))
        try:
            answer = function(copied)
        except NotImplementedError as error:
            if not call:
                return Answer(absent=first_line(str(error)) or "not supported")
            return Answer(error=again + describe_with_place(error), raised=error)
        except Exception as error:  # whatever the subject raises
            return Answer(error=again + describe_with_place(error), raised=error)
        try:
            outputs.append(to_arrays(answer))
        except AnswerError as error:
            return Answer(error=again + str(error))
        if changed := _changed_inputs(case, copied):
            return Answer(error=f"{again}changed its input {', '.join(changed)}")
    return Answer(outputs=tuple(outputs))


def _changed_inputs(case: Case, copied: Case) -> list[str]:
    """The names of the inputs that differ from the case's own."""
    names = [name for name, array in case.arrays.items() if not _same(array, copied.arrays.get(name))]
    return names if _text(copied.config) == _text(case.config) else [*names, "config"]


def _same(a: np.ndarray, b: np.ndarray | None) -> bool:
    return b is not None and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _text(config: Mapping[str, Any]) -> str | None:
    try:
        return json.dumps(config, sort_keys=True)
    except (TypeError, ValueError, RecursionError):  # the subject put in something that no case holds
        return None
