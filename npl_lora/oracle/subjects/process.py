"""A Python subject, asked through a worker process: it may hang or crash, and the check goes on."""

import sys
from pathlib import Path
from types import TracebackType

import numpy as np

from ..case import Case
from . import Answer, TargetError
from .conversation import Conversation, SilenceError

# The worker is to be the same npl_lora as this one. With -P the current folder is not searched: a math.py that lies
# there would become Python's own.
_ROOT = str(Path(__file__).resolve().parents[3])
_START = (
    f"import sys; {_ROOT!r} in sys.path or sys.path.insert(0, {_ROOT!r}); "
    "from npl_lora.oracle.subjects.worker import main; main()"
)
_TRIES = 2  # failed restarts, one after the other, until it is no longer tried


class ProcessSubject:
    """target: a file, importable code or a shipped library; contract: ask it for this one. timeout: seconds a case.

    load_timeout: seconds that importing the target may take. Raises TargetError when the target cannot be loaded. Close
    it, or use it in a with statement.
    """

    def __init__(
        self, target: str, contract: str | None = None, timeout: float = 60.0, load_timeout: float = 300.0
    ) -> None:
        self.name = target
        self._contract = contract
        self._timeout = timeout
        self._load_timeout = load_timeout
        self._worker: Conversation | None = None
        self._failures: list[str] = []
        self.contracts = self._start()

    def ask(self, case: Case) -> Answer:
        """Both answers of the subject to a case; or why there are none."""
        if case.contract not in self.contracts:
            return Answer(absent=f"has no {case.contract}")
        try:
            worker = self._worker or self._restart()
        except TargetError as error:
            return Answer(error=str(error))
        header = {"contract": case.contract, "id": case.id, "dtype": case.dtype, "config": case.config}
        try:
            reply, arrays = worker.reply(self._timeout, (header, dict(case.arrays)))
        except SilenceError as silence:
            self._worker = None
            return Answer(error=str(silence))
        except KeyboardInterrupt:  # its reply must not be taken for the next case's
            self.close()
            raise
        if "calls" not in reply:
            return Answer(absent=reply.get("absent"), error=reply.get("error"))
        return Answer(outputs=tuple(_call(arrays, call) for call in range(reply["calls"])))

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
        """Start the worker, and learn the contracts that the target bears."""
        words = [sys.executable, "-P", "-c", _START, self.name]
        worker = Conversation(words + ([self._contract] if self._contract else []))
        try:
            reply, _ = worker.reply(self._load_timeout)
        except SilenceError as silence:
            raise TargetError(f"{self.name} cannot be loaded: {silence}") from None
        if "problem" in reply:
            worker.close()
            raise TargetError(reply["problem"])
        self._worker = worker
        return tuple(reply["contracts"])

    def _restart(self) -> Conversation:
        """Another worker, for the last one ended with the case before."""
        if len(self._failures) == _TRIES:
            raise TargetError(self._failures[-1])
        try:
            self._start()
        except TargetError as error:
            self._failures.append(f"after its process ended it could not be started again: {error}")
            raise TargetError(self._failures[-1]) from None
        self._failures.clear()
        assert self._worker is not None
        return self._worker


def _call(arrays: dict[str, np.ndarray], call: int) -> dict[str, np.ndarray]:
    prefix = f"{call}:"
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
