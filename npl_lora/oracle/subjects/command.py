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
from ...support.names import Names, as_names
from ..case import Case
from . import Answer, TargetError
from .children import OutputTail, append_line, describe_exit, kill_group
from .convert import AnswerError
from .result_file import read_arrays

_NOT_SUPPORTED = 77


class CommandSubject:
    """command: split like in a POSIX shell, then {case} and {result} are filled in; no shell runs. timeout: seconds for
    each case.

    Raises TargetError if the program does not exist, if a placeholder is missing, or without safetensors.
    """

    def __init__(self, command: str, contract: Names, timeout: float = 60.0) -> None:
        try:
            self._safetensors = require("safetensors.numpy", "files", "--exec")
            require("ml_dtypes", "files", "--exec")  # safetensors can read bfloat16 once it is imported
        except MissingExtraError as error:
            raise TargetError(str(error)) from None
        self.name = command
        self.contracts = as_names(contract)
        self._timeout = timeout
        self._words = _split(command)

    def ask(self, case: Case) -> Answer:
        """Write the case, run the command, read the result."""
        with tempfile.TemporaryDirectory(prefix="npl-lora-", ignore_cleanup_errors=True) as folder:
            case_file, result_file = Path(folder, "case.safetensors"), Path(folder, "result.safetensors")
            metadata = {"protocol": "1", "contract": case.contract, "id": case.id, "dtype": case.dtype}
            arrays = {name: np.array(array, order="C") for name, array in case.arrays.items()}
            self._safetensors.save_file(arrays, case_file, {**metadata, "config": json.dumps(case.config)})
            return self._run(case_file, result_file)

    def close(self) -> None:
        """Nothing runs between cases."""

    def __enter__(self) -> "CommandSubject":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, case_file: Path, result_file: Path) -> Answer:
        words = [_fill(word, case_file, result_file) for word in self._words]
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
        tail = OutputTail(process.stdout)
        try:
            status = process.wait(timeout=self._timeout)
        except subprocess.TimeoutExpired:
            kill_group(process)
            return Answer(error=append_line(f"took longer than {self._timeout:g} s", tail.last_line()))
        finally:
            kill_group(process)  # and any children it left behind
        if status == _NOT_SUPPORTED:
            return Answer(absent=tail.last_line() or "not supported")
        if status:
            return Answer(error=describe_exit(process, tail.last_line()))
        try:
            return Answer(outputs=(read_arrays(result_file),))
        except AnswerError as error:
            return Answer(error=append_line(str(error), tail.last_line()))


def _split(command: str) -> list[str]:
    """The words of a command. Raises TargetError if the command cannot be run."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise TargetError(f"{command!r} cannot be split into words: {error}") from None
    for placeholder in ("{case}", "{result}"):
        if not any(placeholder in word for word in words):
            raise TargetError(f"the command has no {placeholder}: write it where the file name goes")
    if shutil.which(words[0]) is None:
        raise TargetError(f"{words[0]}: {'not executable' if Path(words[0]).exists() else 'no such program'}")
    return words


def _fill(word: str, case_file: Path, result_file: Path) -> str:
    return word.replace("{case}", str(case_file)).replace("{result}", str(result_file))
