"""For other people's test suites: a function that is to conform to a contract.

    from npl_lora.testing import conforms

    @conforms("lora_linear")
    def lora_linear(case):
        ...

pytest then has one test for each case, named by its id, so that -k float32 or -k dropout selects some (npl_lora's
plugin does it, and comes with the package). The function takes a case and returns a mapping from name to array, as
PROTOCOL.md has it; whatever its name is, and it stays what it was. A case that it raises NotImplementedError for is
skipped.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from .oracle import CONTRACTS, DTYPES, Case, CaseReport
from .oracle.check import check_case, observe
from .oracle.diagnosis import Diagnosis, diagnose
from .oracle.subjects.in_process import Function, ask

F = TypeVar("F", bound=Function)

_MARK = "_npl_lora_conforms"


@dataclass(frozen=True)
class Conforms:
    """What a function is asked: a contract, in some dtypes."""

    contract: str
    dtypes: tuple[str, ...]

    def cases(self) -> list[Case]:
        """Every case, dtype after dtype."""
        return [case for dtype in self.dtypes for case in CONTRACTS[self.contract].cases(dtype)]


def conforms(contract: str, *, dtypes: Iterable[str] = DTYPES) -> Callable[[F], F]:
    """Have pytest ask the function every case of the contract in these dtypes. Raises ValueError for an unknown one."""
    dtypes = tuple(dtypes)
    if contract not in CONTRACTS:
        raise ValueError(f"contract is {contract!r}, expected one of {', '.join(CONTRACTS)}")
    if unknown := [dtype for dtype in dtypes if dtype not in DTYPES]:
        raise ValueError(f"dtypes has {', '.join(map(repr, unknown))}, expected some of {', '.join(DTYPES)}")

    def mark(function: F) -> F:
        setattr(function, _MARK, Conforms(contract, dtypes))
        return function

    return mark


def asked(function: Any) -> Conforms | None:
    """What conforms has marked this with, if it has; without running any code of the object's."""
    mark = inspect.getattr_static(function, _MARK, None)
    return mark if isinstance(mark, Conforms) else None


def check_function(function: Function, case: Case) -> tuple[CaseReport, Diagnosis]:
    """Ask a function one case, here in this process, judge its answers, and say what one case lets say."""
    answer = ask(function, case)
    report = check_case(case, answer)
    return report, diagnose(observe([case], [answer], [report]))
