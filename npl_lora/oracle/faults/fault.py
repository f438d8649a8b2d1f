"""What a fault is: a small wrong variant of the definition, and what there is to say about it.

    Fault(
        "S5",
        variant="dB",
        says="dB lacks s = alpha / r, which dA has",
        wrong="dB = dy^T (x A^T)",
        right="dB = s dy^T (x A^T)",
        hidden_when="s = 1",
        seen_in="hand-written backward passes",
        parts={"lora_linear": with_gradients(B=lambda dB, a: dB / a.scale)},
    )

The mistake itself is a wrap: a function that takes the right part and returns the wrong one (see wraps.py). So a fault
goes through every contract that uses the part, and two faults can be put in together.
"""

from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field

from ...support.array import Array
from ..contracts import CONTRACTS
from ..definition import RIGHT, AnswerFunction, Config, Definition, Wrap


@dataclass(frozen=True)
class Fault:
    """One entry of the catalogue.

    id:           a letter for the kind (see kinds.py) and a number: "S5"
    variant:      which of several ways to make the mistake: "dB"; "" if there is one
    says:         a clause that a kernel engineer can act on, without a full stop
    wrong, right: what is computed and what should be, as formulas
    hidden_when:  the settings that hide the fault from every test; completes "Hidden when ..."
    seen_in:      where the fault was seen; completes "Seen in: ..."
    parts:        the parts of the definition that are wrong, each with its wrap
    answers:      the contracts that are answered wrongly, each with its wrap
    objection:    the contract's sentence about random draws that break a rule although no number is wrong
    fact:         what is asked of a layer that shows it, where no call of its own does: no part is wrong then
    """

    id: str
    _: KW_ONLY
    variant: str = ""
    says: str
    wrong: str
    right: str
    hidden_when: str
    seen_in: str
    parts: Mapping[str, Wrap] = field(default_factory=dict, repr=False)
    answers: Mapping[str, Wrap] = field(default_factory=dict, repr=False)
    objection: str = ""
    fact: str = ""

    @property
    def name(self) -> str:
        """The id, with the variant if there is one: "S5/dB"."""
        return f"{self.id}/{self.variant}" if self.variant else self.id


def wrong_answer(contract: str, *faults: Fault) -> AnswerFunction:
    """answer(arrays, config) of the contract with these faults in it."""
    definition, right = _definition(faults), CONTRACTS[contract].answer
    for fault in faults:
        if contract in fault.answers:
            right = fault.answers[contract](right)

    def answer(arrays: Mapping[str, Array], config: Config) -> dict[str, Array]:
        return right(arrays, config, definition)

    return answer


def wrong_value(contract: str, *faults: Fault) -> AnswerFunction:
    """The value alone of the op with these faults: {} where it can't be had without the whole answer."""
    definition = _definition(faults)
    whole = any(contract in fault.answers for fault in faults)

    def value(arrays: Mapping[str, Array], config: Config) -> dict[str, Array]:
        return {} if whole else CONTRACTS[contract].value(arrays, config, definition)

    return value


def _definition(faults: Iterable[Fault]) -> Definition:
    """The definition with the parts of these faults wrapped, the first innermost."""
    definition = RIGHT
    for fault in faults:
        definition = definition.wrapped(**fault.parts)
    return definition
