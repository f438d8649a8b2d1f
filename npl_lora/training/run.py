"""A training run: a model, an adapter, training rows, held-out rows, and a folder for the results.

    run = Run(model, adapter, rows, held_out, Recipe(steps=100), Path("out"))
    for event in run.go():
        print(event)

After each event with `saved` set, the folder holds the adapter in PEFT's format, a checkpoint, and metrics.csv with a
row for each step (row 0 has the held-out loss before the first step). For a classifier it also holds the class names. A
run that resumes from the checkpoint ends with the same bits as a run that was never interrupted.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..adapters import LoRA, files
from ..models import Classifier, Pretrained
from ..support.ranks import ALONE, Ranks
from . import checkpoint, loop
from .classes import write_classes
from .data import Row, check
from .loop import Evaluation
from .metrics import MetricsFile
from .step import Best, Metrics, Recipe, State

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Event:
    """The run after `step` steps. metrics: of the last step, None before the first. rate: tokens a second. held_out:
    the evaluation, None between evaluations. is_best: whether its loss is the lowest so far. saved: whether this state
    is on the disk."""

    step: int
    metrics: Metrics | None
    rate: float
    held_out: Evaluation | None
    is_best: bool
    saved: bool


class Run:
    """Bad input is refused here, before the first step.

    rows: the training rows. held_out: rows to evaluate on; may be empty. out: the folder. batch: rows in a step.
    micro_batch: rows at a time (default: the batch, or a rank's share of it). every: steps between evaluations, each of
    which saves. patience: the run stops after this many evaluations in a row without a new lowest loss, and the folder
    keeps the best adapter; None: all steps are taken, and the folder keeps the last adapter. base: the model's name,
    for the adapter's file. about: further settings that must be the same when the run resumes. resume: continue from
    the checkpoint in out, which must have the same rows, recipe, adapter, batch and `about`, and finite numbers unless
    allow_nonfinite. A checkpoint is never overwritten by a new run. ranks: if mpiexec started several, each batch
    is split over them and rank 0 alone writes.

    Raises TypeError, ValueError, CheckpointError and OSError.
    """

    def __init__(
        self,
        model: Pretrained,
        adapter: LoRA,
        rows: Sequence[Row],
        held_out: Sequence[Row],
        recipe: Recipe,
        out: str | Path,
        *,
        batch: int = 4,
        micro_batch: int | None = None,
        every: int = 25,
        patience: int | None = None,
        base: str | None = None,
        about: Mapping[str, Any] | None = None,
        resume: bool = False,
        allow_nonfinite: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        _check(adapter, rows, held_out, batch=batch, micro_batch=micro_batch, every=every, patience=patience)
        check([*rows, *held_out], model.config.vocabulary, model.config.positions)
        self.model, self.rows, self.held_out, self.recipe = model, rows, held_out, recipe
        self.out, self.batch, self.every, self.patience, self.base = Path(out), batch, every, patience, base
        self.ranks, self.micro = ranks, micro_batch or max(1, batch // ranks.size)
        if (micro := -(-batch // self.micro)) < ranks.size:
            split = f"a batch of {batch} rows, {self.micro} at a time, is {micro} micro-batches"
            raise ValueError(f"{split}, expected at least one for each of {ranks.size} ranks")
        settings: dict[str, Any] = {
            "batch": str(batch),
            "recipe": dataclasses.asdict(recipe),
            "adapter": adapter.config.as_json(),
        }
        if adapter.config.lora_dropout:
            settings["micro_batch"] = str(self.micro)  # each micro-batch has its own mask
        if patience is not None:
            settings |= {"every": every, "patience": patience}
        if isinstance(model, Classifier):
            settings |= {"classes": list(model.classes), "pooling": model.pooling}
        digests = {"model": _digest_of_model(model), "rows": _digest_of_rows([*rows, *held_out])}
        self.about: dict[str, Any] = {**(about or {}), **settings, **digests}
        self.state = self._begin(adapter, resume, allow_nonfinite)
        self._last_complete = self._last_saved = self.state

    def _begin(self, adapter: LoRA, resume: bool, allow_nonfinite: bool) -> State:
        path = self.out / CHECKPOINT
        if resume and not path.exists():
            raise ValueError(f"there is no {path}, expected a run to continue")
        if resume:
            return checkpoint.load(path, adapter, self.about, allow_nonfinite)
        if self.ranks.rank > 0:
            return State(adapter)
        if path.exists():
            raise ValueError(f"{path} already exists: --resume continues it, another --out starts a new run")
        if (self.out / files.TENSORS).exists():
            raise ValueError(f"{self.out / files.TENSORS} already exists, without a checkpoint: choose another --out")
        self.out.mkdir(parents=True, exist_ok=True)
        state = State(adapter)
        if isinstance(self.model, Classifier):
            write_classes(self.out, self.model.classes, self.model.pooling)
        checkpoint.save(path, state, self.about)  # fail now, not in an hour, if the folder is read-only or full
        return state

    def go(self) -> Iterator[Event]:
        """Take the steps that are left. Yields an event before the first of them and one after each. Raises
        NonFiniteError."""
        self._agree()
        file = MetricsFile(self.out / "metrics.csv", self.state.step) if self.ranks.rank == 0 else None
        held = self.evaluate()
        is_best = self.state.best == Best() and self._record(held)  # a resumed run may have recorded this one
        if self.state.step == 0:
            self._last_complete = self.state
            self._save()
            if file is not None and held is not None:
                file.add(0, None, held, 0.0)
        yield Event(self.state.step, None, 0.0, held, is_best, True)
        begin = time.monotonic()
        sizes: Any = dict(size=self.batch, micro=self.micro, padding=0)
        steps = loop.run(self.model, self.state, self.rows, self.recipe, **sizes, ranks=self.ranks)
        while not self.ended:
            state, metrics = next(steps)
            self.state = dataclasses.replace(state, best=self.state.best)
            rate, step = metrics.tokens / (time.monotonic() - begin), state.step
            ends = step % self.every == 0 or step == self.recipe.steps
            held = self.evaluate() if ends else None
            is_best = self._record(held)
            if file is not None:
                file.add(step, metrics, held, rate)
            self._last_complete = self.state  # recorded and in metrics.csv: a run can resume from here
            if ends:
                self._save()
            yield Event(step, metrics, rate, held, is_best, ends)
            begin = time.monotonic()

    @property
    def ended(self) -> bool:
        """Whether all steps are taken, or patience has run out."""
        out_of_patience = self.patience is not None and self.state.best.worse_since >= self.patience
        return out_of_patience or self.state.step >= self.recipe.steps

    def evaluate(self) -> Evaluation | None:
        """The current adapter on the held-out rows; None if there are none."""
        if not self.held_out:
            return None
        return loop.evaluate_rows(
            self.model, self.state.adapter, self.held_out, micro=self.micro, padding=0, ranks=self.ranks
        )

    def _record(self, held: Evaluation | None) -> bool:
        """Record an evaluation in the state. Returns whether it is the best so far."""
        if held is None:
            return False
        self.state = dataclasses.replace(self.state, best=self.state.best.after(held.loss, self.state.step))
        return self.state.best.step == self.state.step

    def keep(self) -> int | None:
        """Save the last complete step of a run that is stopped between two saves, and return its number. None on the
        ranks that write nothing: they cannot know whether rank 0 still could."""
        if self.ranks.rank > 0:
            return None
        if self._last_complete.step > self._last_saved.step:
            self._write(self._last_complete)
        return self._last_complete.step

    def _save(self) -> None:
        self._agree()
        self._write(self.state)

    def _write(self, state: State) -> None:
        """The adapter is written first, so the checkpoint is never ahead of it, whenever the run is killed."""
        if self.ranks.rank > 0:
            return
        if self.patience is None or state.best.step == state.step:
            files.save(cast(LoRA, state.adapter), self.out, self.base)  # _check refused any other adapter
        checkpoint.save(self.out / CHECKPOINT, state, self.about)
        self._last_saved = state

    def _agree(self) -> None:
        """Raises RanksError unless all ranks hold the same adapter of the same run."""
        digest = hashlib.sha256(json.dumps([self.about, self.state.step], sort_keys=True).encode())
        for array in self.state.adapter.parameters.values():
            digest.update(np.ascontiguousarray(array).tobytes())
        self.ranks.agree(f"the adapter after step {self.state.step}", digest.hexdigest())


def _check(
    adapter: LoRA, rows: Sequence[Row], held_out: Sequence[Row], *, patience: int | None, **counts: int | None
) -> None:
    """Raises ValueError for arguments that make no run."""
    for name, value in {**counts, "patience": patience}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    if not rows:
        raise ValueError("rows is empty, expected at least one training row")
    if patience is not None and not held_out:
        raise ValueError("held_out is empty, expected rows that patience judges by")
    if not isinstance(adapter, LoRA):
        kind = type(adapter).__name__
        raise TypeError(f"adapter is a {kind}, expected LoRA: a run writes PEFT's files (train_step takes any adapter)")


def _digest_of_model(model: Pretrained) -> str:
    """A model's identity, wherever its files are: its tensors' names and shapes, and the numbers of its vectors."""
    digest = hashlib.sha256(model.kind.encode())
    for name in sorted(model.base):
        shape = model.base.shape(name)
        digest.update(f"{name} {shape}".encode() + (model.base[name].tobytes() if len(shape) == 1 else b""))
    return digest.hexdigest()


def _digest_of_rows(rows: Sequence[Row]) -> str:
    """The identity of all rows, for the checkpoint."""
    digest = hashlib.sha256()
    for row in rows:
        for array in (row.tokens, row.labels):
            digest.update(f"{array.shape}".encode() + np.asarray(array, "<i8").tobytes())
    return digest.hexdigest()
