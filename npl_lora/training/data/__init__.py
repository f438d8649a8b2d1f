"""Training data: reads a text, conversations or labelled texts from a file, as rows of tokens with labels.

    data = read("reviews.csv", tokenizer, length=128)
    rows, held_out = data.split(0.1)

Each format has a module: text, conversations (.jsonl), classified (.csv). Any file may be packed (.bz2). A mistake in a
file raises DataError; the message is one sentence with the line number.

Reading order: rows, text, conversations, classified.
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
    """The rows of a file, of at most `length` tokens each. The end of its name decides the format. text_column,
    label_column and classes are for CSV; classes defaults to all labels in the file. Raises DataError."""
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
    """Whether a file holds labelled texts, by its name."""
    return _ending(Path(path)) == ".csv"


def _ending(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".bz2")).suffix
