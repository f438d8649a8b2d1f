"""Labelled texts: a CSV file with a header line, a column of texts and a column of labels. Each distinct label is a
class; the classes are in alphabetical order. A text longer than the length loses its end.

The columns are separated by commas; by semicolons or tabs if the header line says so, as in spreadsheets' exports."""

import csv
import io
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ...models import Tokenizer
from ...support.quoting import quote_name, quote_value
from .fields import WEIGHTS
from .rows import Data, DataError, Row

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}


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
    columns = text_column, label_column
    with _cells_of_any_length(content):
        separator = _separator(path, content, columns)
        header = _header(content, separator)
        examples = list(_examples(path, content, separator, columns))
    if not examples:
        raise DataError(f"{path} has a header line and no rows")
    blank = [label for _, _, label in examples if label != label.strip()]
    examples = [(number, text, label.strip()) for number, text, label in examples]
    found = Counter(label for _, _, label in examples)
    known = tuple(sorted(found) if classes is None else classes)
    if len(known) < 2:
        raise DataError(f"{path} has the label {known[0][:40]!r} in every row, expected at least two classes")
    rows, cut = list[Row](), 0
    for number, text, label in examples:
        if label not in known:
            near = next((f"; it looks like {one[:40]!r}" for one in known if _alike(one) == _alike(label)), "")
            names = quote_name(", ".join(known), 200)
            raise DataError(f"{path}, line {number}: label {label[:40]!r} is not one of {names}{near}")
        tokens = tokenizer.encode(text)
        if not tokens:
            raise DataError(f"{path}, line {number}: the text has no tokens")
        cut += len(tokens) > length
        rows.append(Row(np.asarray(tokenizer.encode(text, length)), np.asarray(known.index(label))))
    notes = [*_notes_on_columns(path, header, separator, columns), *_notes_on_labels(found, blank)]
    return Data(rows, known, cut, notes=tuple(notes))


def _separator(path: Path, content: str, columns: tuple[str, str]) -> str:
    """The first separator with which the header line has both columns; if none has, that of the file's name."""
    for separator in (_by_name(path), *_SEPARATORS):
        if {*columns} <= {*_header(content, separator)}:
            return separator
    return _by_name(path)


def _header(content: str, separator: str) -> list[str]:
    """The first line's cells. A line may also end in a carriage return alone."""
    return next(csv.reader(io.StringIO(content, newline=""), delimiter=separator), [])


def _by_name(path: Path) -> str:
    return "\t" if path.name.lower().removesuffix(".bz2").endswith(".tsv") else ","


@contextmanager
def _cells_of_any_length(content: str) -> Iterator[None]:
    """Python's limit on a cell is for the whole process, and low."""
    before = csv.field_size_limit(max(len(content), 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _examples(path: Path, content: str, separator: str, columns: tuple[str, str]) -> Iterator[tuple[int, str, str]]:
    """For each row: the line where it ends, its text and its label."""
    reader = csv.DictReader(io.StringIO(content, newline=""), strict=True, delimiter=separator)
    try:
        names = list(reader.fieldnames or ())
        for name in columns:
            if names.count(name) != 1:
                there = quote_name(", ".join(names), 200)
                raise DataError(f"{path}, line 1: the columns are {there}, expected exactly one named {name!r}")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                count = len(row) + len(row.get(None, ())) - (None in row) - list(row.values()).count(None)
                raise DataError(f"{where} has {count} columns, expected {len(names)}")
            for name in columns:
                if not row[name].strip():
                    raise DataError(f"{where}: {name} is empty")
            _refuse_weights(where, row, columns)
            yield reader.line_num, row[columns[0]], row[columns[1]]
    except csv.Error as error:  # in the row after the last good one
        raise DataError(f"{path}, line {reader.line_num + 1}: {error}") from None


def _refuse_weights(where: str, row: Mapping[str, str], used: tuple[str, str]) -> None:
    for name in WEIGHTS:
        if name not in used and row.get(name, "").strip() not in ("", "1", "1.0"):
            raise DataError(f"{where} has {name} = {quote_value(row[name])}: a row counts once, or is left out")


def _notes_on_columns(path: Path, header: list[str], separator: str, used: tuple[str, str]) -> Iterator[str]:
    if separator != _by_name(path):
        yield f"columns are separated by {_SEPARATORS[separator]}"
    if others := [quote_name(name) or "one without a name" for name in header if name not in used]:
        yield f"columns that are not read: {', '.join(others)[:200]}"


def _notes_on_labels(found: Mapping[str, int], blank: Sequence[str]) -> Iterator[str]:
    """Labels that may have been meant as one class: 1 and 1.0, yes and Yes. blank: those with blanks around them."""
    if blank:
        count = "1 label has blanks around it" if len(blank) == 1 else f"{len(blank):,} labels have blanks around them"
        yield f"warning: {count}, as {blank[0][:40]!r} does; they are left out"
    groups: dict[str, list[str]] = {}
    for label in sorted(found):
        groups.setdefault(_alike(label), []).append(label)
    for labels in groups.values():
        if len(labels) > 1:
            named = [f"{label[:40]!r} ({found[label]:,})" for label in labels]
            yield f"warning: {' and '.join(named)} are different classes; if they are one, write them alike"


def _alike(label: str) -> str:
    """What a label has in common with others that look like it: numbers by value, words without case and blanks."""
    plain = " ".join(unicodedata.normalize("NFKC", label).casefold().split())
    try:
        return repr(float(plain.replace(",", ".")) + 0.0)  # some write 1,0; -0 is 0
    except ValueError:
        return plain
