"""Rows of tokens with labels, in an order that depends on the seed and the position alone.

Position p of a run over n rows is row `order(epoch = p // n)[p % n]`. So a run that resumes at a step knows its place
in the data, and nothing has to be stored.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...lora.masks import counter_rng
from ..step import Batch

_ORDER = 2**64 - 1  # a layer number of the counter that no dropout mask uses
IGNORED = -100


class DataError(ValueError):
    """A file cannot be trained on. The message is one sentence."""


@dataclass(frozen=True)
class Row:
    """One example. tokens (T,). labels: for a language model (T,), the token itself where it is learned, else -100; for
    a classifier (), the index of the class."""

    tokens: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Data:
    """The content of a file: its rows, and the class names if they are labelled. cut: how many rows were truncated.
    left_out: how many were dropped because truncation removed every label. in_order: the rows are pieces of one
    text. notes: sentences on what a user should know before it is trained on."""

    rows: list[Row] = field(default_factory=list)
    classes: tuple[str, ...] | None = None
    cut: int = 0
    left_out: int = 0
    in_order: bool = False
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many labels count."""
        return len(self.rows) if self.classes else sum(count_labels(row) for row in self.rows)

    def split(self, share: float) -> tuple[list[Row], list[Row]]:
        """Rows to train on and rows to evaluate on. The end of a text is held out. Other rows are shuffled first, since
        a file may be sorted. The shuffle does not depend on the run's seed, so all runs are compared on the same rows.

        Raises ValueError unless 0 <= share < 1.
        """
        order = range(len(self.rows)) if self.in_order else np.random.default_rng(0).permutation(len(self.rows))
        return split([self.rows[i] for i in order], share)


def count_labels(row: Row) -> int:
    """How many labels of a row of text count. The first does not: nothing predicts it."""
    return int(np.sum(row.labels[1:] != IGNORED))


def split(rows: Sequence[Row], share: float) -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows to evaluate on. The last rows are held out, at least one if the share is not 0.

    Raises ValueError unless 0 <= share < 1.
    """
    if not 0 <= share < 1:
        raise ValueError(f"the share held out is {share}, expected 0 <= share < 1")
    held = min(max(1, round(share * len(rows))), len(rows) - 1) if share else 0
    return list(rows[: len(rows) - held]), list(rows[len(rows) - held :])


def check(rows: Sequence[Row], vocabulary: int, positions: int) -> None:
    """Raises DataError for rows that do not fit a model. vocabulary, positions: how many it has."""
    for number, row in enumerate(rows, 1):
        if row.tokens.size == 0:
            raise DataError(f"row {number:,} has no tokens")
        low, high = int(row.tokens.min()), int(row.tokens.max())
        if low < 0 or high >= vocabulary:
            token = low if low < 0 else high
            limit = f"the model has {vocabulary:,} tokens: the tokenizer belongs to another model"
            raise DataError(f"row {number:,} has the token {token:,}, but {limit}")
        if row.tokens.size > positions:
            raise DataError(f"row {number:,} has {row.tokens.size:,} tokens, expected at most {positions:,} positions")


def batch(rows: Sequence[Row], padding: int) -> Batch:
    """Rows as one batch, padded on the right."""
    T = max(row.tokens.size for row in rows)
    tokens, mask = np.full((len(rows), T), padding), np.zeros((len(rows), T), bool)
    labels = np.full((len(rows), *(T for _ in range(rows[0].labels.ndim))), IGNORED)
    for i, row in enumerate(rows):
        n = row.tokens.size
        tokens[i, :n], mask[i, :n] = row.tokens, True
        labels[(i, slice(n))[: labels.ndim]] = row.labels
    return Batch(tokens, labels, None if mask.all() else mask)


def batch_at(rows: Sequence[Row], step: int, size: int, micro: int, seed: int, padding: int) -> list[Batch]:
    """The micro-batches of a step: `size` rows in all, at most `micro` in each."""
    picked = [rows[_row(len(rows), step * size + i, seed)] for i in range(size)]
    return [batch(picked[i : i + micro], padding) for i in range(0, size, micro)]


def in_order(rows: Sequence[Row], micro: int, padding: int) -> Iterator[Batch]:
    """All rows once, in batches of at most `micro`."""
    return (batch(rows[i : i + micro], padding) for i in range(0, len(rows), micro))


def _row(count: int, position: int, seed: int) -> int:
    epoch, place = divmod(position, count)
    return int(_order(count, epoch, seed)[place])


@functools.lru_cache(maxsize=2)
def _order(count: int, epoch: int, seed: int) -> np.ndarray:
    return counter_rng(seed, epoch, _ORDER).permutation(count)
