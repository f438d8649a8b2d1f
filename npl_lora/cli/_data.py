"""What `train` and `eval` share: the arguments that say how data are read, and what they print about them."""

import argparse

from ..models import Pretrained, Tokenizer
from ..training import data
from . import _arguments

FORMATS = """\
DATA is a file in UTF-8, and may be compressed (.bz2). Its name says what it
holds:
  .jsonl   one object on each line: {"prompt": ..., "completion": ...}, or
           {"messages": [{"role": ..., "content": ...}, ...]}, which the model's
           chat template lays out. Only the completion, or what the assistant
           says, counts in the loss.
  .csv     a header, and columns of texts and labels: MODEL becomes a classifier
  other    one text"""


def add_options(parser: argparse._ActionsContainer) -> None:
    _arguments.add_length(parser, 256, "tokens in a row, at most")
    for kind in ("text", "label"):
        parser.add_argument(
            f"--{kind}-column",
            default=kind,
            metavar="NAME",
            help=f"column of the {kind}s in a .csv (default: %(default)s)",
        )


def read(arguments: argparse.Namespace, tokenizer: Tokenizer, classes: tuple[str, ...] | None = None) -> data.Data:
    if arguments.length < 2:
        raise ValueError(f"--length is {arguments.length}, expected at least 2")
    columns = dict(text_column=arguments.text_column, label_column=arguments.label_column)
    return data.read(arguments.data, tokenizer, arguments.length, classes=classes, **columns)


def check_length(length: int, model: Pretrained) -> None:
    if not 2 <= length <= model.config.positions:
        raise ValueError(f"--length is {length}, expected 2 to {model.config.positions} positions")


def description(rows: data.Data, length: int) -> str:
    """ "120 rows, 3 cut to 256 tokens, 1 dropped because truncation removed every label" and the like."""
    words = f"{len(rows.rows):,} rows"
    if rows.cut:
        words += f", {rows.cut - rows.left_out:,} cut to {length} tokens"
    if rows.left_out:
        words += f", {rows.left_out:,} dropped because truncation removed every label"
    if rows.classes:
        words += f"; classes: {', '.join(rows.classes)[:200]}"
    return words
