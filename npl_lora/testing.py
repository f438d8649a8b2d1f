"""For your own test suite: check that a function conforms to a contract.

    from npl_lora.testing import conforms

    @conforms("lora_linear")
    def lora_linear(case):
        ...

pytest then runs one test for each case. A test is named by the id of its case, so -k float32 or -k dropout selects
some. (The package's own pytest plugin does this.) The function takes a case and returns a mapping from name to array,
as PROTOCOL.md describes. It may have any name, and the decorator returns it unchanged. A case for which it raises
NotImplementedError is skipped.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from .oracle import CONTRACTS, DTYPES, Case, CaseReport
from .oracle.check import ask_and_judge, observe
from .oracle.diagnosis import Diagnosis, diagnose
from .oracle.dtypes import askable
from .oracle.subjects.in_process import Function, ask

F = TypeVar("F", bound=Function)

_MARK = "_npl_lora_conforms"


@dataclass(frozen=True)
class Conforms:
    """The cases that a function is asked: a contract, in these dtypes; with forward_only, its values alone."""

    contract: str
    dtypes: tuple[str, ...]
    forward_only: bool = False

    def cases(self) -> list[Case]:
        """Every case of the contract, one dtype after another."""
        cases = [case for dtype in self.dtypes for case in CONTRACTS[self.contract].cases(dtype)]
        return [replace(case, forward_only=self.forward_only) for case in cases]


def conforms(contract: str, *, dtypes: Iterable[str] | None = None, forward_only: bool = False) -> Callable[[F], F]:
    """Have pytest ask the function every case of the contract, in these dtypes (default: all that can be asked here).

    forward_only: judge the values alone; gradients need not be answered, and are ignored where they are.
    Raises ValueError for an unknown contract or dtype, and for forward_only where a contract has no values alone.
    """
    dtypes = askable() if dtypes is None else tuple(dtypes)
    if contract not in CONTRACTS:
        raise ValueError(f"contract is {contract!r}, expected one of {', '.join(CONTRACTS)}")
    if unknown := [dtype for dtype in dtypes if dtype not in DTYPES]:
        raise ValueError(f"dtypes has {', '.join(map(repr, unknown))}, expected some of {', '.join(DTYPES)}")

    if forward_only and (reason := CONTRACTS[contract].no_forward):
        raise ValueError(f"forward_only is True, expected False: {reason}")

    def mark(function: F) -> F:
        setattr(function, _MARK, Conforms(contract, dtypes, forward_only))
        return function

    return mark


def asked(function: Any) -> Conforms | None:
    """The mark that `conforms` left on an object, if any. Runs no code of the object."""
    mark = inspect.getattr_static(function, _MARK, None)
    return mark if isinstance(mark, Conforms) else None


def check_function(function: Function, case: Case) -> tuple[CaseReport, Diagnosis]:
    """Ask a function one case, in this process, judge its answers, and diagnose what this one case shows."""
    case, answer, report = ask_and_judge(partial(ask, function), case)
    return report, diagnose(observe([case], [answer], [report]))
