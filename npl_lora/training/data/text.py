"""A text, cut into rows of one length."""

import bz2
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...models import Tokenizer
from .rows import Data, Row


class DataError(ValueError):
    """Data that cannot be trained on. One sentence."""


def read_text(path: Path) -> str:
    """A text file in UTF-8, unpacked if its name ends in .bz2. Raises DataError for one that is empty or no text."""
    try:
        raw = path.read_bytes()
        raw = bz2.decompress(raw) if path.suffix.lower() == ".bz2" else raw
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is no text in UTF-8: byte {error.start:,} is {error.object[error.start]:#04x}"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: packed, but not to its end
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if "\0" in text:
        raise DataError(f"{path} is no text: it has a character 0")
    if not text.strip():
        raise DataError(f"{path} is empty")
    return text


def read(path: Path, content: str, tokenizer: Tokenizer, length: int) -> Data:
    """All of it is learned, but for the first token of each row. Raises DataError for fewer than two tokens."""
    rows = windows(tokenizer.encode(content), length)
    if not rows:
        raise DataError(f"{path} has fewer than two tokens")
    return Data(rows, in_order=True)


def windows(tokens: Sequence[int], length: int) -> list[Row]:
    """A text cut into rows of `length` tokens; the last may be shorter, but has something to learn."""
    cut = [np.asarray(tokens[start : start + length]) for start in range(0, len(tokens), length)]
    return [Row(part, part) for part in cut if part.size > 1]
