"""A text, cut into rows of one length."""

import bz2
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...models import Tokenizer
from .rows import Data, DataError, Row


def read_text(path: Path) -> str:
    """The content of a UTF-8 text file, unpacked if its name ends in .bz2. Raises DataError if it is empty or not
    text."""
    try:
        raw = path.read_bytes()
        raw = bz2.decompress(raw) if path.suffix.lower() == ".bz2" else raw
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not text in UTF-8: byte {error.start:,} is {error.object[error.start]:#04x}"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: the packed file is cut off
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if "\0" in text:
        raise DataError(f"{path} is not text: it has a character 0")
    if not text.strip():
        raise DataError(f"{path} is empty")
    return text


def read(path: Path, content: str, tokenizer: Tokenizer, length: int) -> Data:
    """Every token is learned except the first of each row. Raises DataError for fewer than two tokens."""
    rows = windows(tokenizer.encode(content), length)
    if not rows:
        raise DataError(f"{path} has fewer than two tokens")
    return Data(rows, in_order=True)


def windows(tokens: Sequence[int], length: int) -> list[Row]:
    """A text cut into rows of `length` tokens. The last may be shorter, but has at least two."""
    cut = [np.asarray(tokens[start : start + length]) for start in range(0, len(tokens), length)]
    return [Row(piece, piece) for piece in cut if piece.size > 1]
