"""A text, cut into rows of one length."""

import bz2
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...models import Tokenizer
from .rows import Data, DataError, Row

# The first bytes of files that are no text, and what they are.
_BINARY = {
    b"PAR1": "a Parquet file: write it as .jsonl",
    b"ARROW1": "an Arrow file: write it as .jsonl",
    b"PK\x03\x04": "a ZIP archive or a spreadsheet (.xlsx): unpack it, or save it as .csv",
    b"\xd0\xcf\x11\xe0": "an old spreadsheet or document: save it as .csv or .txt",
    b"\x1f\x8b": "packed with gzip: unpack it",
    b"\xfd7zXZ": "packed with xz: unpack it",
    b"\x28\xb5\x2f\xfd": "packed with zstd: unpack it",
    b"BZh": "packed with bzip2: let its name end in .bz2",
    b"%PDF": "a PDF file: save it as .txt",
    b"SQLite format 3": "a database: write it as .jsonl or .csv",
    b"\x89HDF": "an HDF5 file: write it as .jsonl",
    b"\x93NUMPY": "a NumPy file: write texts",
    b"GGUF": "a model, expected data",
    b"\xff\xfe": "text in UTF-16: save it in UTF-8",
    b"\xfe\xff": "text in UTF-16: save it in UTF-8",
}


def read_text(path: Path) -> str:
    """The content of a UTF-8 text file, unpacked if its name ends in .bz2. Raises DataError if it is empty or not
    text."""
    try:
        raw = path.read_bytes()
        raw = bz2.decompress(raw) if path.suffix.lower() == ".bz2" else raw
    except (OSError, ValueError) as error:  # ValueError: the packed file is cut off
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    for first, what in _BINARY.items():
        if raw.startswith(first):
            raise DataError(f"{path} is {what}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        place = f"byte {error.start:,} is {error.object[error.start]:#04x}, in line {line:,}"
        raise DataError(f"{path} is not text in UTF-8: {place}") from None
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
