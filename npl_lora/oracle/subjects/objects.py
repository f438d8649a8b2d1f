"""An object of this process as a subject: a layer, a function, a module, anything that a target can name."""

from functools import partial
from typing import Any

from ...support.names import Names
from ..case import Case
from . import Answer
from .in_process import ask
from .targets import load_object


class ObjectSubject:
    """thing: as `load_object` takes it. Asked in this process, so it must neither hang nor crash.

    Raises TargetError, one sentence, if there is nothing to ask.
    """

    def __init__(self, thing: Any, contract: Names | None = None) -> None:
        self.name = getattr(thing, "__name__", type(thing).__name__)
        loaded = load_object(thing, self.name, contract)
        self.contracts = tuple(loaded.functions)
        self.adoption = loaded.adoption
        self.layers = loaded.layers
        self._asks = {name: partial(ask, function) for name, function in loaded.functions.items()}

    def ask(self, case: Case) -> Answer:
        """The outputs of both calls, or why there are none."""
        return (
            self._asks[case.contract](case) if case.contract in self._asks else Answer(absent=f"has no {case.contract}")
        )

    def close(self) -> None:
        """Nothing runs."""
