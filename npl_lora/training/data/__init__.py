"""Training data: reads a text, conversations or labelled texts from a file, as rows of tokens with labels.

    data = read("reviews.csv", tokenizer, length=128)
    rows, held_out = data.split(0.1)

Each format has a module: text (.txt, .md), conversations (.jsonl, .json), classified (.csv, .tsv). Any file may be
packed (.bz2). A mistake in a file raises DataError; the message is one sentence with the line number.

Reading order: rows, kinds, text, objects, fields, forms, answers, conversations, classified, look.
"""

from collections.abc import Sequence
from pathlib import Path

from ...models import Tokenizer
from . import classified, conversations, text
from .kinds import check_content, kind_by_name
from .look import Piece, pieces
from .rows import IGNORED, Data, DataError, Row, batch, batch_at, check, count_labels, in_order, split
from .text import read_text, windows

__all__ = [
    "IGNORED",
    "Data",
    "DataError",
    "Piece",
    "Row",
    "batch",
    "batch_at",
    "check",
    "count_labels",
    "in_order",
    "is_classified",
    "pieces",
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
    as_text: bool = False,
) -> Data:
    """The rows of a file, of at most `length` tokens each. The end of its name decides the format. text_column,
    label_column and classes are for tables; classes defaults to all labels in the file. as_text: the file is one text,
    whatever its name says. Raises DataError."""
    path = Path(path)
    content, kind = read_text(path), kind_by_name(path, as_text)
    if not as_text:
        check_content(path, content, kind, (text_column, label_column))
    match kind:
        case "objects":
            return conversations.read(path, content, tokenizer, length)
        case "table":
            return classified.read(path, content, tokenizer, length, text_column, label_column, classes)
        case "text":
            return text.read(path, content, tokenizer, length)


def is_classified(path: str | Path, as_text: bool = False) -> bool:
    """Whether a file holds labelled texts, by its name. Raises DataError for a name that says nothing."""
    return kind_by_name(Path(path), as_text) == "table"
