"""The training loop, and the evaluation on held-out rows."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .. import ops as reference
from ..adapters import Adapter
from ..models import Classifier, LossOptions, Pretrained
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
    """Train from a state to the last step. Yields the state after each step, and its metrics. size: rows in a batch.
    micro: rows at a time. padding: the token that fills short rows."""
    while state.step < recipe.steps:
        batches = batch_at(rows, state.step, size, micro, recipe.seed, padding)
        state, metrics = train_step(model, state, batches, recipe, ranks)
        yield state, metrics


@dataclass(frozen=True)
class Evaluation:
    """loss: the mean over the labels that count. count: their number. accuracy: the share of them that a classifier
    predicts right; it predicts the class with the largest logit, the first one if several are equal."""

    loss: float
    count: int
    accuracy: float | None = None

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss) if self.loss < 700.0 else math.inf


def evaluate_rows(
    model: Pretrained,
    adapter: Adapter | None,
    rows: Sequence[Row],
    *,
    micro: int,
    padding: int,
    on_progress: Callable[[int], None] | None = None,
    ranks: Ranks = ALONE,
) -> Evaluation:
    """Evaluate a model on rows, `micro` at a time. The ranks share the work; any number of them gives the
    same bits. on_progress: called with the number of rows just done.

    Raises NonFiniteError if the loss is not finite.
    """
    batches = list(in_order(rows, micro, padding))
    count = sum(batch.count for batch in batches)

    def judge(batch: Batch) -> tuple[float, int]:
        with np.errstate(all="ignore"):  # an overflow shows in the loss
            result = _judge(model, adapter, batch, count)
        if on_progress is not None:
            on_progress(len(batch.tokens))
        return result

    results = ranks.each(judge, batches)
    total, right = sum((loss for loss, _ in results), 0.0), sum(right for _, right in results)
    if not math.isfinite(total):
        where = origin(partial(_loss, model, adapter, batches), model, adapter)
        raise NonFiniteError(f"the held-out loss is {total}{where}")
    return Evaluation(total, count, right / max(1, count) if isinstance(model, Classifier) else None)


def _judge(model: Pretrained, adapter: Adapter | None, batch: Batch, count: int) -> tuple[float, int]:
    """The batch's share of the loss, and the number of labels that a classifier predicts right."""
    if isinstance(model, Classifier):
        logits, _ = model.scores(batch.tokens, adapter, key_mask=batch.key_mask, recompute=True)
        right = np.sum(np.argmax(logits, axis=-1) == batch.labels)
        return float(reference.cross_entropy(logits, batch.labels, count=count)[0]), int(right)
    options = LossOptions(key_mask=batch.key_mask, count=count, wrt=(), recompute=True)
    return float(model.loss(batch.tokens, batch.labels, adapter, options)[0]), 0


def _loss(model: Pretrained, adapter: Adapter | None, batches: Sequence[Batch], ops: Any) -> None:
    """The same computation with other ops."""
    for batch in batches:
        options = LossOptions(key_mask=batch.key_mask, wrt=(), recompute=True, ops=ops)
        model.loss(batch.tokens, batch.labels, adapter, options)
