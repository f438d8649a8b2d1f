"""For your own test suite: check that a function conforms to a contract, or a layer to all that it has.

    from npl_lora.testing import conforms

    @conforms("lora_linear")
    def lora_linear(case):
        ...

pytest then runs one test for each case. A test is named by the id of its case, so -k float32 or -k dropout selects
some. (The package's own pytest plugin does this.) The function takes a case and returns a mapping from name to array,
as PROTOCOL.md describes. It may have any name, and the decorator returns it unchanged. A case for which it raises
NotImplementedError is skipped.

    from npl_lora.testing import conforms_layer

    test_our_layer = conforms_layer(LoRALinear)

asks a layer as it was written, as `npl-lora check FILE.py:LoRALinear` does: a test for each case, and for each fact,
such as layer/start.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, update_wrapper
from typing import Any, TypeVar, cast

from .oracle import CONTRACTS, Case, CaseReport, TargetError
from .oracle.adoption import Adoption
from .oracle.check import ask_and_judge, layer_facts, observe
from .oracle.diagnosis import Diagnosis, diagnose
from .oracle.dtypes import known
from .oracle.report import LAYER, NOTHING
from .oracle.subjects import Answer
from .oracle.subjects.in_process import Function, ask
from .oracle.subjects.objects import ObjectSubject
from .support.names import Names

F = TypeVar("F", bound=Function)

_MARK = "_npl_lora_conforms"


@dataclass(frozen=True)
class Conforms:
    """The cases that a function is asked: a contract, in these dtypes; with forward_only, its values alone. inner: what
    a second `conforms` below this one asks."""

    contract: str
    dtypes: tuple[str, ...]
    forward_only: bool = False
    inner: "Conforms | None" = None

    def cases(self) -> list[Case]:
        """Every case of the contract, one dtype after another; those of the inner ones before them."""
        cases = [case for dtype in self.dtypes for case in CONTRACTS[self.contract].cases(dtype)]
        before = [] if self.inner is None else self.inner.cases()
        own = (replace(case, forward_only=self.forward_only) for case in cases)
        return list({case.id: case for case in (*before, *own)}.values())


def conforms(contract: str, *, dtypes: Names | None = None, forward_only: bool = False) -> Callable[[F], F]:
    """Have pytest ask the function every case of the contract, in these dtypes (default: all that can be asked here).

    forward_only: judge the values alone; gradients need not be answered, and are ignored where they are. Of two
    decorators on one function, both ask. Raises ValueError for an unknown contract or dtype, and for forward_only where
    a contract has no values alone; TypeError for what is no function of one case.
    """
    dtypes = known(dtypes)
    if contract not in CONTRACTS:
        raise ValueError(f"contract is {contract!r}, expected one of {', '.join(CONTRACTS)}")
    if forward_only and (reason := CONTRACTS[contract].no_forward):
        raise ValueError(f"forward_only is True, expected False: {reason}")

    def mark(function: F) -> F:
        _check_signature(function)
        inner = inspect.getattr_static(function, _MARK, None)
        if inspect.ismethod(function):  # of an object: it cannot hold the mark itself
            function = cast(F, update_wrapper(partial(function), function))
        setattr(function, _MARK, Conforms(contract, dtypes, forward_only, inner))
        return function

    return mark


def _check_signature(function: Function) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # none can be read
        return
    try:
        signature.bind(None)
    except TypeError:
        name = getattr(function, "__name__", type(function).__name__)
        raise TypeError(
            f"{name}{signature} cannot be asked: conforms takes a function of one case, and knows no fixtures, no"
            " parametrize and no methods of test classes; write such a function, outside of any class, that calls yours"
        ) from None


@dataclass(frozen=True)
class Checked:
    """What a test has to say of a case. raised: the exception that the function raised, if that is what is wrong."""

    report: CaseReport
    diagnosis: Diagnosis
    raised: Exception | None = None


class LayerTests:
    """The cases that a layer is asked, and the facts if it is adopted."""

    def __init__(self, layer: Any, dtypes: tuple[str, ...], strict: bool) -> None:
        self._subject = ObjectSubject(layer)
        self._dtypes = dtypes
        if self._subject.layers:
            raise TargetError(f"{self._subject.name} has layers: give one of {', '.join(self._subject.layers)}")
        facts = () if self._subject.adoption is None else _facts(self._subject.adoption, strict)
        self._facts = {report.id: report for report in facts}

    def cases(self) -> list[Case]:
        """Every fact, then every case of every contract that the layer has."""
        facts = [Case(LAYER, id_, "any", {}, {}) for id_ in self._facts]
        names = self._subject.contracts
        cases = [case for name in names for dtype in self._dtypes for case in CONTRACTS[name].cases(dtype)]
        adoption = self._subject.adoption
        return facts + (cases if adoption is None else [adoption.question(case) for case in cases])

    def check(self, case: Case) -> Checked:
        """The report on a case or fact."""
        if case.contract == LAYER:
            return Checked(self._facts[case.id], NOTHING)
        return _check(self._subject.ask, case)


def _facts(adoption: Adoption, strict: bool) -> tuple[CaseReport, ...]:
    """What is asked of an adopted layer besides the contracts, and whether its scale may be what it is."""
    verdict = "fail" if adoption.convention and strict else "pass"
    return *layer_facts(adoption), CaseReport("layer/convention/any", "any", verdict, adoption.convention)


def conforms_layer(layer: Any, *, dtypes: Names | None = None, strict: bool = False) -> LayerTests:
    """Have pytest check a layer as it was written: a class, or a function that builds one. Assign it to a name.

    A module or an object with functions named after contracts is asked the cases of each. dtypes: default, all that can
    be asked here. strict: another scale than alpha / r fails. Raises ValueError for an unknown dtype, and TargetError,
    one sentence, for what is no layer that can be adopted.
    """
    return LayerTests(layer, known(dtypes), strict)


def asked(function: Any) -> Conforms | LayerTests | None:
    """The mark that `conforms` left on an object, or what `conforms_layer` gave. Runs no code of the object."""
    if isinstance(function, LayerTests):
        return function
    mark = inspect.getattr_static(function, _MARK, None)
    return mark if isinstance(mark, Conforms) else None


def check_function(function: Function | LayerTests, case: Case) -> Checked:
    """Ask a function one case, in this process, judge its answers, and diagnose what this one case shows."""
    return function.check(case) if isinstance(function, LayerTests) else _check(partial(ask, function), case)


def _check(asks: Callable[[Case], Answer], case: Case) -> Checked:
    case, answer, report = ask_and_judge(asks, case)
    return Checked(report, diagnose(observe([case], [answer], [report])), answer.raised)
