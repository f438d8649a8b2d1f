"""Subjects: implementations under check, asked case by case.

A subject has a name, the contracts it implements, `ask(case)`, which never raises because of a fault in the subject,
and `close()`.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ..case import Case
from ..contracts import CONTRACTS as _CONTRACTS

CONTRACTS = tuple(_CONTRACTS)


class TargetError(Exception):
    """The target cannot be checked at all: not found, not importable, or without a contract. One sentence."""


@dataclass(frozen=True)
class Answer:
    """What a subject gave back for one case. Exactly one of outputs, absent and error is set.

    outputs: the outputs of each call (a subject is asked twice in one process, to show that no state leaks). absent:
    the subject's reason for not supporting the case. error: what went wrong, in one line. raised: the exception that
    error tells of, if the subject raised it in this process.
    """

    outputs: tuple[dict[str, np.ndarray], ...] | None = None
    absent: str | None = None
    error: str | None = None
    raised: Exception | None = field(default=None, compare=False, repr=False)


class Subject(Protocol):
    """Anything that answers cases."""

    name: str
    contracts: tuple[str, ...]

    def ask(self, case: Case) -> Answer:
        """The subject's answer. A fault in the subject is part of the answer and is not raised."""
        ...

    def close(self) -> None:
        """End every process that runs for the subject."""
        ...
