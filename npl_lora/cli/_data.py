"""What `train` and `eval` share: the arguments that say how data are read, and what they print about them."""

import argparse
from collections import Counter

from ..models import Pretrained, Tokenizer
from ..support.quoting import quote_name
from ..training import data
from . import _arguments

FORMATS = """\
DATA is a file in UTF-8, and may be compressed (.bz2). Its name says what it
holds:
  .jsonl, .json  objects, one after another or in an array:
                   {"prompt": ..., "completion": ...}
                   {"messages": [{"role": ..., "content": ...}, ...]}
                   {"conversations": [{"from": ..., "value": ...}, ...]}
                   {"instruction": ..., "input": ..., "output": ...}
                   {"text": ...}
                 Conversations and instructions are laid out by the model's chat
                 template. Only the completion, or what the assistant says,
                 counts in the loss; of a text, everything. tools go to the
                 template; "weight": 0 in a message leaves it out of the loss.
                 A field that would change more is refused by name.
  .csv, .tsv     a header, and columns of texts and labels: MODEL becomes a
                 classifier
  .txt, .md      one text; with --text, any file is"""


def add_options(parser: argparse._ActionsContainer) -> None:
    _arguments.add_length(parser, 256, "tokens in a row, at most")
    for kind in ("text", "label"):
        parser.add_argument(
            f"--{kind}-column",
            default=kind,
            metavar="NAME",
            help=f"column of the {kind}s in a .csv or .tsv (default: %(default)s)",
        )
    parser.add_argument(
        "--text", action="store_true", help="DATA is one text, whatever its name says (default: its name decides)"
    )


def read(arguments: argparse.Namespace, tokenizer: Tokenizer, classes: tuple[str, ...] | None = None) -> data.Data:
    if arguments.length < 2:
        raise ValueError(f"--length is {arguments.length}, expected at least 2")
    columns = dict(text_column=arguments.text_column, label_column=arguments.label_column)
    return data.read(arguments.data, tokenizer, arguments.length, classes=classes, as_text=arguments.text, **columns)


def check_length(length: int, model: Pretrained) -> None:
    if not 2 <= length <= model.config.positions:
        raise ValueError(f"--length is {length}, expected 2 to {model.config.positions} positions")


def first_rows(rows: data.Data, tokenizer: Tokenizer, count: int = 3) -> list[tuple[str, list[data.Piece]]]:
    """The first rows in pieces, each with a heading such as "row 1: 34 tokens, 8 learned"."""
    found = []
    for number, row in enumerate(rows.rows[:count], 1):
        label = f"class {rows.classes[int(row.labels)]!r}" if rows.classes else f"{data.count_labels(row):,} learned"
        found.append((f"row {number}: {row.tokens.size:,} tokens, {label}", list(data.pieces(row, tokenizer))))
    return found


def description(rows: data.Data, length: int) -> str:
    """ "120 rows, 3 cut to 256 tokens, 1 dropped because truncation removed every label" and the like."""
    words = f"{len(rows.rows):,} rows"
    if rows.cut:
        words += f", {rows.cut - rows.left_out:,} cut to {length} tokens"
    if rows.left_out:
        words += f", {rows.left_out:,} dropped because truncation removed every label"
    if rows.classes:
        counts = Counter(int(row.labels) for row in rows.rows)
        named = [f"{quote_name(name, 40)} ({counts[i]:,})" for i, name in enumerate(rows.classes)]
        words += f"; classes: {', '.join(named[:20])}{f' and {len(named) - 20} more' if len(named) > 20 else ''}"
    return words
