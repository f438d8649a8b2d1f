"""Labelled texts: a CSV file with a header line, a column of texts and a column of labels. Each distinct label is a
class; the classes are in alphabetical order. A text longer than the length loses its end."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ...models import Tokenizer
from .rows import Data, DataError, Row


def read(
    path: Path,
    content: str,
    tokenizer: Tokenizer,
    length: int,
    text_column: str,
    label_column: str,
    classes: Sequence[str] | None = None,
) -> Data:
    """The rows of the file. Raises DataError, which names the line."""
    examples = list(_examples(path, content, text_column, label_column))
    if not examples:
        raise DataError(f"{path} has a header line and no rows")
    known = tuple(sorted({label for _, _, label in examples}) if classes is None else classes)
    if len(known) < 2:
        raise DataError(f"{path} has the label {known[0][:40]!r} in every row, expected at least two classes")
    rows, cut = list[Row](), 0
    for number, text, label in examples:
        if label not in known:
            raise DataError(f"{path}, line {number}: label {label[:40]!r} is not one of {', '.join(known)[:200]}")
        tokens = tokenizer.encode(text)
        if not tokens:
            raise DataError(f"{path}, line {number}: the text has no tokens")
        cut += len(tokens) > length
        rows.append(Row(np.asarray(tokenizer.encode(text, length)), np.asarray(known.index(label))))
    return Data(rows, known, cut)


def _examples(path: Path, content: str, text_column: str, label_column: str) -> Iterator[tuple[int, str, str]]:
    """For each row: the line where it ends, its text and its label."""
    reader = csv.DictReader(io.StringIO(content, newline=""), strict=True)
    try:
        names = list(reader.fieldnames or ())
        for name in (text_column, label_column):
            if names.count(name) != 1:
                columns = ", ".join(names)[:200]
                raise DataError(f"{path}, line 1: the columns are {columns}, expected exactly one named {name!r}")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                count = len(row) + len(row.get(None, ())) - (None in row) - list(row.values()).count(None)
                raise DataError(f"{where} has {count} columns, expected {len(names)}")
            for name in (text_column, label_column):
                if not row[name].strip():
                    raise DataError(f"{where}: {name} is empty")
            yield reader.line_num, row[text_column], row[label_column].strip()
    except csv.Error as error:  # in the row after the last good one
        raise DataError(f"{path}, line {reader.line_num + 1}: {error}") from None
