"""Which faults can show in which contract: a fault must change a part of the definition that the contract uses."""

from collections.abc import Iterable
from functools import cache

from ..contracts import CONTRACTS
from ..definition import RIGHT, Definition
from . import FAULTS
from .fault import Fault


def relevant_to(contract: str, faults: Iterable[Fault] = FAULTS) -> list[Fault]:
    """The faults that can show in a contract."""
    used = parts_used(contract)
    return [fault for fault in faults if fault.parts.keys() & used or contract in fault.answers]


def contracts_of(fault: Fault) -> list[str]:
    """The contracts in which a fault can show."""
    return [contract for contract in CONTRACTS if relevant_to(contract, [fault])]


@cache
def parts_used(contract: str) -> frozenset[str]:
    """The parts of the definition that a contract uses in any of its cases."""
    used: set[str] = set()

    class Recorder(Definition):
        def __getattribute__(self, name: str) -> object:
            used.add(name)
            return super().__getattribute__(name)

    recorder, asked = Recorder(**vars(RIGHT)), CONTRACTS[contract]
    for case in asked.cases("float64"):
        case = asked.settle(case, {}) if asked.settle else case
        asked.answer(case.arrays, case.config, recorder)
    return frozenset(used & vars(RIGHT).keys())
