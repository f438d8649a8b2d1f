"""A program in any language, asked through safetensors files: --exec './my_binary {case} {result}'."""

import json
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np

from ...support.extras import MissingExtraError, require
from ..case import Case
from . import Answer, TargetError
from .children import LastWords, ending, kill_group, with_words
from .convert import AnswerError
from .result_file import read_arrays

_NOT_SUPPORTED = 77


class CommandSubject:
    """command: split as a POSIX shell would, then {case} and {result} put in; no shell runs. timeout: seconds a case.

    Raises TargetError for a command that is not there or has no placeholders, and without safetensors.
    """

    def __init__(self, command: str, contract: str, timeout: float = 60.0) -> None:
        try:
            self._safetensors = require("safetensors.numpy", "files", "--exec")
            require("ml_dtypes", "files", "--exec")  # safetensors reads bfloat16 where it has been imported
        except MissingExtraError as error:
            raise TargetError(str(error)) from None
        self.name = command
        self.contracts: tuple[str, ...] = (contract,)
        self._timeout = timeout
        self._words = _split(command)

    def ask(self, case: Case) -> Answer:
        """Write the case, run the command, read the result."""
        with tempfile.TemporaryDirectory(prefix="npl-lora-", ignore_cleanup_errors=True) as folder:
            asked, result = Path(folder, "case.safetensors"), Path(folder, "result.safetensors")
            metadata = {"protocol": "1", "contract": case.contract, "id": case.id, "dtype": case.dtype}
            arrays = {name: np.array(array, order="C") for name, array in case.arrays.items()}
            self._safetensors.save_file(arrays, asked, {**metadata, "config": json.dumps(case.config)})
            return self._run(asked, result)

    def close(self) -> None:
        """Nothing runs between cases."""

    def __enter__(self) -> "CommandSubject":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, asked: Path, result: Path) -> Answer:
        words = [_fill(word, asked, result) for word in self._words]
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            return Answer(error=f"cannot be run: {error.strerror}")
        assert process.stdout is not None
        last = LastWords(process.stdout)
        try:
            status = process.wait(timeout=self._timeout)
        except subprocess.TimeoutExpired:
            kill_group(process)
            return Answer(error=with_words(f"took longer than {self._timeout:g} s", last.line()))
        finally:
            kill_group(process)  # children that it left behind, too
        if status == _NOT_SUPPORTED:
            return Answer(absent=last.line() or "not supported")
        if status:
            return Answer(error=ending(process, last.line()))
        try:
            return Answer(outputs=(read_arrays(result),))
        except AnswerError as error:
            return Answer(error=with_words(str(error), last.line()))


def _split(command: str) -> list[str]:
    """The words of a command that can be run. Raises TargetError for one that cannot."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise TargetError(f"{command!r} cannot be split into words: {error}") from None
    for placeholder in ("{case}", "{result}"):
        if not any(placeholder in word for word in words):
            raise TargetError(f"the command has no {placeholder}: it is where the file's name goes")
    if shutil.which(words[0]) is None:
        raise TargetError(f"{words[0]}: {'not executable' if Path(words[0]).exists() else 'no such program'}")
    return words


def _fill(word: str, asked: Path, result: Path) -> str:
    return word.replace("{case}", str(asked)).replace("{result}", str(result))
