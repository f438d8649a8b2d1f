"""Training data: rows of tokens with labels, drawn in an order that depends on the seed and the position alone.

Position p of a run over n rows is row `order(epoch = p // n)[p % n]`: whoever resumes at a step knows where in the data
it is, and nothing has to be stored.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..layers.masks import counter_rng
from .step import Batch

_ORDER = 2**64 - 1  # the counter's layer that no dropout mask is drawn from
IGNORED = -100


class DataError(ValueError):
    """Data that cannot be trained on. One sentence."""


@dataclass(frozen=True)
class Row:
    """One example: its tokens, and for each the token itself where it is to be learned, else -100."""

    tokens: np.ndarray
    labels: np.ndarray


def read_text(path: Path) -> str:
    """A text file. Raises DataError for one that is empty or no text."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is no text in UTF-8: byte {error.start:,} is {error.object[error.start]:#04x}"
        ) from None
    if not text.strip():
        raise DataError(f"{path} is empty")
    return text


def windows(tokens: Sequence[int], length: int) -> list[Row]:
    """A text cut into rows of `length` tokens; the last may be shorter, but has something to learn."""
    cut = [np.asarray(tokens[start : start + length]) for start in range(0, len(tokens), length)]
    return [Row(part, part) for part in cut if part.size > 1]


def split(rows: Sequence[Row], share: float) -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows to evaluate on: the last ones, at least one if the share is not 0."""
    held = min(max(1, round(share * len(rows))), len(rows) - 1) if share else 0
    return list(rows[: len(rows) - held]), list(rows[len(rows) - held :])


def batch(rows: Sequence[Row], padding: int) -> Batch:
    """Rows as one batch, padded on the right."""
    T = max(row.tokens.size for row in rows)
    tokens, labels = np.full((len(rows), T), padding), np.full((len(rows), T), IGNORED)
    mask = np.zeros((len(rows), T), bool)
    for i, row in enumerate(rows):
        n = row.tokens.size
        tokens[i, :n], labels[i, :n], mask[i, :n] = row.tokens, row.labels, True
    return Batch(tokens, labels, None if mask.all() else mask)


def batch_at(rows: Sequence[Row], step: int, size: int, micro: int, seed: int, padding: int) -> list[Batch]:
    """The micro-batches of a step, `size` rows in all, at most `micro` of them at a time."""
    picked = [rows[_row(len(rows), step * size + i, seed)] for i in range(size)]
    return [batch(picked[i : i + micro], padding) for i in range(0, size, micro)]


def in_order(rows: Sequence[Row], micro: int, padding: int) -> Iterator[Batch]:
    """All rows, once."""
    return (batch(rows[i : i + micro], padding) for i in range(0, len(rows), micro))


def _row(count: int, position: int, seed: int) -> int:
    epoch, place = divmod(position, count)
    return int(counter_rng(seed, epoch, _ORDER).permutation(count)[place])
