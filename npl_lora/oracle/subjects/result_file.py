"""Reads a safetensors file of outputs, written by a stranger's program."""

import os
import stat
from pathlib import Path

import numpy as np

from ...support.extras import require
from ..one_line import describe
from .convert import AnswerError, to_numpy

_LIMIT = 1 << 30  # bytes


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays in a file. Raises AnswerError, one sentence, if it is not a file of arrays."""
    safetensors = require("safetensors.numpy", "files", "reading answers")
    invalid = require("safetensors", "files", "reading answers").SafetensorError
    require("ml_dtypes", "files", "reading answers")  # safetensors can read bfloat16 once it is imported
    try:
        status = os.lstat(path)
    except OSError:
        raise AnswerError("wrote no result file") from None
    if not stat.S_ISREG(status.st_mode):  # opening a FIFO would wait for a writer
        raise AnswerError("the result is not a regular file")
    if status.st_size > _LIMIT:
        raise AnswerError(f"the result file has {status.st_size:,} bytes, expected at most {_LIMIT:,}")
    try:
        tensors = safetensors.load_file(path)
    except (invalid, ValueError, KeyError, TypeError, AttributeError, OSError, MemoryError) as error:
        raise AnswerError(f"the result file is not a valid safetensors file: {describe(error)}") from None
    return {name: to_numpy(name, array) for name, array in tensors.items()}
