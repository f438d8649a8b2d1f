"""Training data: a file of text, of conversations or of classified texts, as rows of tokens with labels.

    data = read("reviews.csv", tokenizer, length=128)
    rows, held_out = data.split(0.1)

One file a format: text, conversations (.jsonl), classified (.csv). A name may end in .bz2 beyond that. What a file gets
wrong is a DataError, one sentence with the number of the line. Reading order: rows, text, conversations, classified.
"""

from collections.abc import Sequence
from pathlib import Path

from ...models import Tokenizer
from . import classified, conversations, text
from .rows import IGNORED, Data, DataError, Row, batch, batch_at, check, count_labels, in_order, split
from .text import read_text, windows

__all__ = [
    "IGNORED",
    "Data",
    "DataError",
    "Row",
    "batch",
    "batch_at",
    "check",
    "count_labels",
    "in_order",
    "is_classified",
    "read",
    "read_text",
    "split",
    "windows",
]


def read(
    path: str | Path,
    tokenizer: Tokenizer,
    length: int,
    *,
    text_column: str = "text",
    label_column: str = "label",
    classes: Sequence[str] | None = None,
) -> Data:
    """The rows in a file, of at most `length` tokens each, by what its name ends in. The columns, and the classes that
    there are (all labels found, by default), are for CSV. Raises DataError."""
    path = Path(path)
    content = read_text(path)
    match _ending(path):
        case ".jsonl":
            return conversations.read(path, content, tokenizer, length)
        case ".csv":
            return classified.read(path, content, tokenizer, length, text_column, label_column, classes)
        case _:
            return text.read(path, content, tokenizer, length)


def is_classified(path: str | Path) -> bool:
    """Whether a file holds texts with labels."""
    return _ending(Path(path)) == ".csv"


def _ending(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".bz2")).suffix
