"""Training from a state to the last step, and the loss on rows that were held out."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .. import ops as reference
from ..adapters import LoRA
from ..models import Classifier, Pretrained
from ..support.ranks import ALONE, Ranks
from .data import Row, batch_at, in_order
from .nonfinite import origin
from .step import Batch, Metrics, NonFiniteError, Recipe, State, train_step


def run(
    model: Pretrained,
    state: State,
    rows: Sequence[Row],
    recipe: Recipe,
    *,
    size: int,
    micro: int,
    padding: int,
    ranks: Ranks = ALONE,
) -> Iterator[tuple[State, Metrics]]:
    """The state after each step, and what the step was like. A batch has `size` rows, `micro` of them at a time."""
    while state.step < recipe.steps:
        batches = batch_at(rows, state.step, size, micro, recipe.seed, padding)
        state, metrics = train_step(model, state, batches, recipe, ranks)
        yield state, metrics


@dataclass(frozen=True)
class Evaluation:
    """The mean loss over the labels that count, how many these are, and the share that a classifier has right: whose
    class has the largest logit, the first of equals."""

    loss: float
    count: int
    accuracy: float | None = None

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss) if self.loss < 700.0 else math.inf


def evaluate_rows(
    model: Pretrained,
    adapter: LoRA | None,
    rows: Sequence[Row],
    *,
    micro: int,
    padding: int,
    on_progress: Callable[[int], None] | None = None,
    ranks: Ranks = ALONE,
) -> Evaluation:
    """A model on rows that it did not learn from, `micro` at a time, dealt out over ranks: the same number, to the bit,
    whatever their number. on_progress: told how many rows more are done.

    Raises NonFiniteError for a loss that is none.
    """
    batches = list(in_order(rows, micro, padding))
    count = sum(batch.count for batch in batches)

    def judge(batch: Batch) -> tuple[float, int]:
        with np.errstate(all="ignore"):  # what overflows is seen by what comes of it
            found = _judge(model, adapter, batch, count)
        if on_progress is not None:
            on_progress(len(batch.tokens))
        return found

    found = ranks.each(judge, batches)
    total, right = sum((loss for loss, _ in found), 0.0), sum(right for _, right in found)
    if not math.isfinite(total):
        where = origin(partial(_loss, model, adapter, batches), model, adapter)
        raise NonFiniteError(f"the held-out loss is {total}{where}")
    return Evaluation(total, count, right / max(1, count) if isinstance(model, Classifier) else None)


def _judge(model: Pretrained, adapter: LoRA | None, batch: Batch, count: int) -> tuple[float, int]:
    """A batch's part of the loss, and how many labels a classifier has right."""
    if isinstance(model, Classifier):
        logits, _ = model.scores(batch.tokens, adapter, key_mask=batch.key_mask, recompute=True)
        right = np.sum(np.argmax(logits, axis=-1) == batch.labels)
        return float(reference.cross_entropy(logits, batch.labels, count=count)[0]), int(right)
    how: Any = dict(key_mask=batch.key_mask, count=count, wrt=(), recompute=True)
    return float(model.loss(batch.tokens, batch.labels, adapter, **how)[0]), 0


def _loss(model: Pretrained, adapter: LoRA | None, batches: Sequence[Batch], ops: Any) -> None:
    """The same computation with other ops."""
    for batch in batches:
        model.loss(batch.tokens, batch.labels, adapter, key_mask=batch.key_mask, wrt=(), recompute=True, ops=ops)
