"""A Python subject in a worker process: it may hang or crash, and the check goes on."""

import sys
from pathlib import Path
from types import TracebackType

import numpy as np

from ...support.names import Names, as_names
from ..adoption import Adoption
from ..case import Case
from . import Answer, TargetError
from .conversation import Conversation, NoReplyError

# The worker must import the same npl_lora as this process. -P keeps the current folder off the path: a math.py there
# would replace Python's own.
_ROOT = str(Path(__file__).resolve().parents[3])
_START = (
    f"import sys; {_ROOT!r} in sys.path or sys.path.insert(0, {_ROOT!r}); "
    "from npl_lora.oracle.subjects.worker import main; main()"
)
_TRIES = 2  # consecutive failed restarts before giving up


class ProcessSubject:
    """target: a file, importable code or a shipped library. contract: the only ones to ask for, if given.

    timeout: seconds for each case. load_timeout: seconds for importing the target. adoption: what was found, if the
    target is a layer. layers: the names of the layers, if it is a module without functions; each is a target of its
    own. Raises TargetError if the target cannot be loaded. Close the subject, or use it in a with statement.
    """

    def __init__(
        self,
        target: str,
        contract: Names | None = None,
        timeout: float = 60.0,
        load_timeout: float = 300.0,
    ) -> None:
        self.name = target
        self._contract = "" if contract is None else ",".join(as_names(contract))
        self._timeout = timeout
        self._load_timeout = load_timeout
        self._worker: Conversation | None = None
        self._failures: list[str] = []
        self.adoption: Adoption | None = None
        self.layers: tuple[str, ...] = ()
        self.contracts = self._start()

    def ask(self, case: Case) -> Answer:
        """The subject's outputs from both calls, or why there are none."""
        if case.contract not in self.contracts:
            return Answer(absent=f"has no {case.contract}")
        try:
            worker = self._worker or self._restart()
        except TargetError as error:
            return Answer(error=str(error))
        header = {"contract": case.contract, "id": case.id, "dtype": case.dtype, "config": case.config}
        try:
            reply, arrays = worker.reply(self._timeout, (header, dict(case.arrays)))
        except NoReplyError as failure:
            self._worker = None
            return Answer(error=str(failure))
        except KeyboardInterrupt:  # its reply must not pass for the next case's
            self.close()
            raise
        if "calls" not in reply:
            return Answer(absent=reply.get("absent"), error=reply.get("error"))
        return Answer(outputs=tuple(_outputs_of(arrays, call) for call in range(reply["calls"])))

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def __enter__(self) -> "ProcessSubject":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> tuple[str, ...]:
        """Start the worker. Returns the contracts that the target implements."""
        words = [sys.executable, "-P", "-c", _START, self.name]
        worker = Conversation(words + ([self._contract] if self._contract else []))
        try:
            reply, _ = worker.reply(self._load_timeout)
        except NoReplyError as failure:
            raise TargetError(f"{self.name} cannot be loaded: {failure}") from None
        if "problem" in reply:
            worker.close()
            raise TargetError(reply["problem"])
        self._worker = worker
        self.layers = tuple(reply["layers"])
        self.adoption = None if reply["adoption"] is None else Adoption.from_json(reply["adoption"])
        return tuple(reply["contracts"])

    def _restart(self) -> Conversation:
        """Start another worker, because the last one ended during an earlier case."""
        if len(self._failures) == _TRIES:
            raise TargetError(self._failures[-1])
        try:
            self._start()
        except TargetError as error:
            self._failures.append(f"its process ended and could not be restarted: {error}")
            raise TargetError(self._failures[-1]) from None
        self._failures.clear()
        assert self._worker is not None
        return self._worker


def _outputs_of(arrays: dict[str, np.ndarray], call: int) -> dict[str, np.ndarray]:
    prefix = f"{call}:"
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
