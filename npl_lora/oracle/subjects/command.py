"""A program in any language, asked through safetensors files: --exec './my_binary {case} {result}'."""

import json
import os
import shlex
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from ..._extras import require
from ..case import Case
from . import Answer, TargetError
from .children import LastWords, ending, kill_group
from .convert import AnswerError, describe, to_numpy

_NOT_SUPPORTED = 77
_LIMIT = 1 << 30  # bytes of a result


class CommandSubject:
    """command: split as a POSIX shell would, then {case} and {result} put in; no shell runs. timeout: seconds a case.

    Raises TargetError for a command that is not there or has no placeholders, MissingExtraError without safetensors.
    """

    def __init__(self, command: str, contract: str, timeout: float = 60.0) -> None:
        self._safetensors = require("safetensors.numpy", "files", "--exec")
        self.name = command
        self.contracts = (contract,)
        self._timeout = timeout
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise TargetError(f"{command!r} cannot be split into words: {error}") from None
        if not self._words or shutil.which(self._words[0]) is None:
            raise TargetError(f"{self._words[0] if self._words else command!r}: no such program")
        for placeholder in ("{case}", "{result}"):
            if placeholder not in command:
                raise TargetError(f"the command has no {placeholder}: it is where the file's name goes")

    def ask(self, case: Case) -> Answer:
        """Write the case, run the command, read the result."""
        with tempfile.TemporaryDirectory(prefix="npl-lora-") as folder:
            asked, result = Path(folder, "case.safetensors"), Path(folder, "result.safetensors")
            metadata = {"protocol": "1", "contract": case.contract, "id": case.id, "dtype": case.dtype}
            arrays = {name: np.ascontiguousarray(array) for name, array in case.arrays.items()}
            self._safetensors.save_file(arrays, asked, {**metadata, "config": json.dumps(case.config)})
            answer = self._run(asked, result)
            return answer if answer is not None else self._read(result)

    def close(self) -> None:
        """Nothing runs between cases."""

    def _run(self, asked: Path, result: Path) -> Answer | None:
        """None when the command ended well; else what there is to say."""
        words = [word.replace("{case}", str(asked)).replace("{result}", str(result)) for word in self._words]
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
            return Answer(error=f"took longer than {self._timeout:g} s")
        finally:
            kill_group(process)  # children that it left behind, too
        if status == _NOT_SUPPORTED:
            return Answer(absent=last.line() or "not supported")
        return Answer(error=ending(process, last.line())) if status else None

    def _read(self, result: Path) -> Answer:
        try:
            status = os.lstat(result)
        except FileNotFoundError:
            return Answer(error="wrote no result file")
        if not stat.S_ISREG(status.st_mode):
            return Answer(error="the result is not a regular file")
        if status.st_size > _LIMIT:
            return Answer(error=f"the result has {status.st_size:,} bytes, expected at most {_LIMIT:,}")
        from safetensors import SafetensorError

        try:
            tensors = self._safetensors.load_file(result)
            return Answer(outputs=({name: to_numpy(name, array) for name, array in tensors.items()},))
        except (SafetensorError, AnswerError, ValueError, KeyError, TypeError, OSError, MemoryError) as error:
            return Answer(error=f"the result is not a safetensors file with floating arrays: {describe(error)}")
