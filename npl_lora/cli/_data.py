"""What `train` and `eval` share: the options that say how data are read, and how they are described."""

import argparse

from ..models import Pretrained, Tokenizer
from ..training import data

FORMATS = """\
DATA is a file in UTF-8, which may be packed (.bz2). What its name ends in says what it holds:
  .jsonl   one object a line, {"prompt": ..., "completion": ...}, or {"messages": [{"role": ..., "content": ...}, ...]}
           through the model's chat template: only what the model is to say counts
  .csv     a line of names, a column of texts and one of labels: MODEL becomes a classifier
  else     one text"""


def add_options(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--length", type=int, default=256, metavar="N", help="tokens a row (default: 256)")
    parser.add_argument("--text-column", default="text", metavar="NAME", help="of a .csv (default: text)")
    parser.add_argument("--label-column", default="label", metavar="NAME", help="of a .csv (default: label)")


def read(arguments: argparse.Namespace, tokenizer: Tokenizer, classes: tuple[str, ...] | None = None) -> data.Data:
    if arguments.length < 2:
        raise ValueError(f"--length is {arguments.length}, expected at least 2")
    columns = dict(text_column=arguments.text_column, label_column=arguments.label_column)
    return data.read(arguments.data, tokenizer, arguments.length, classes=classes, **columns)


def check_length(length: int, model: Pretrained) -> None:
    if not 2 <= length <= model.config.positions:
        raise ValueError(f"--length is {length}, expected 2 to {model.config.positions} positions")


def described(found: data.Data, length: int) -> str:
    """ "120 rows, 3 of them cut to 256 tokens; 1 left out" and the like."""
    said = f"{len(found.rows):,} rows"
    if found.cut:
        said += f", {found.cut - found.left_out:,} cut to {length} tokens"
    if found.left_out:
        said += f", {found.left_out:,} left out: cut, nothing of the answer remains"
    if found.classes:
        said += f"; classes: {', '.join(found.classes)[:200]}"
    return said
