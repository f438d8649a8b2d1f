"""A row as a person sees it: its text in pieces, each learned or only shown."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from ...models import Tokenizer
from .rows import IGNORED, Row


@dataclass(frozen=True)
class Piece:
    """Tokens that follow each other, and their text. is_learned: whether they count in the loss."""

    text: str
    tokens: tuple[int, ...]
    is_learned: bool


def pieces(row: Row, tokenizer: Tokenizer) -> Iterator[Piece]:
    """The pieces of a row, as long as can be. The first token never counts: nothing predicts it. Of a classifier's row
    none does."""
    learned = row.labels != IGNORED if row.labels.ndim else row.tokens < 0
    for is_learned, places in groupby(range(row.tokens.size), lambda i: i > 0 and bool(learned[i])):
        tokens = tuple(int(row.tokens[i]) for i in places)
        yield Piece(tokenizer.decode(tokens, special=True), tokens, is_learned)
