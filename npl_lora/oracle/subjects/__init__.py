"""Subjects: somebody's implementation, asked case by case.

A subject has a name, the contracts it bears, `ask(case)`, which never raises for a fault of the subject's, and
`close()`.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..case import Case
from ..contracts import CONTRACTS as _CONTRACTS

CONTRACTS = tuple(_CONTRACTS)


class TargetError(Exception):
    """The target cannot be checked at all: not found, not importable, no contract in it. One sentence."""


@dataclass(frozen=True)
class Answer:
    """What came back for one case: exactly one of the three is set.

    outputs: the answers of each call (a subject is asked twice in one process: state must not leak). absent: why the
    subject says that it does not support the case. error: what went wrong, in one line.
    """

    outputs: tuple[dict[str, np.ndarray], ...] | None = None
    absent: str | None = None
    error: str | None = None


class Subject(Protocol):
    """Whatever can be asked a case."""

    name: str
    contracts: tuple[str, ...]

    def ask(self, case: Case) -> Answer:
        """The subject's answer; a fault of the subject's is in it, not raised."""
        ...

    def close(self) -> None:
        """End whatever runs for the subject."""
        ...
