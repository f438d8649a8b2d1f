"""A run: a model, an adapter, rows to learn from and rows to judge by, and a folder that keeps all that comes of it.

    run = Run(model, adapter, rows, held_out, Recipe(steps=100), Path("out"))
    for event in run.go():
        print(event)

In the folder are, after each event that has `saved` set, the adapter as PEFT has it, a checkpoint from which a run that
was stopped goes on to the same bits, metrics.csv with a row for each step (row 0 has the held-out loss before the
first), and, of a classifier, its classes.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..adapters import Full, LoRA, files
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
    """After `step` steps: what the last one was like (None before the first), the tokens read a second, how the
    held-out rows fare where it was asked, whether that is the best so far, and whether all is on the disk."""

    step: int
    metrics: Metrics | None
    rate: float
    held_out: Evaluation | None
    is_best: bool
    saved: bool


class Run:
    """What can be refused is refused here, before the first step.

    rows: to learn from. held_out: to judge by, which may be none. out: the folder. batch: rows a step; micro_batch:
    rows at a time. every: steps between evaluations, each of which saves. base: the model's name, for the adapter's
    file. patience: after so many evaluations in a row whose loss is not the lowest the run ends, and the adapter in the
    folder is that of the lowest; None: all steps are taken, and it is the last one. resume: go on from the checkpoint
    in out, which must be of the same rows, recipe, adapter, batch and `about`, and is not written over otherwise.
    ranks: over which batches are dealt out, when mpiexec started several; micro_batch is then by default the share of
    one of them, and rank 0 alone writes. Raises ValueError, CheckpointError and OSError.
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
        ranks: Ranks = ALONE,
    ) -> None:
        _check(adapter, rows, held_out, batch=batch, micro_batch=micro_batch, every=every, patience=patience)
        check([*rows, *held_out], model.config.vocabulary, model.config.positions)
        self.model, self.rows, self.held_out, self.recipe = model, rows, held_out, recipe
        self.out, self.batch, self.every, self.patience, self.base = Path(out), batch, every, patience, base
        self.ranks, self.micro = ranks, micro_batch or max(1, batch // ranks.size)
        if (micro := -(-batch // self.micro)) < ranks.size:
            said = f"a batch of {batch} rows, {self.micro} at a time, is {micro} micro-batches"
            raise ValueError(f"{said}, expected at least one for each of {ranks.size} ranks")
        own: dict[str, Any] = {
            "batch": str(batch),
            "recipe": dataclasses.asdict(recipe),
            "adapter": adapter.config.as_json(),
        }
        if adapter.config.lora_dropout:
            own["micro_batch"] = str(self.micro)  # each has a mask of its own
        if patience is not None:
            own |= {"every": every, "patience": patience}
        if isinstance(model, Classifier):
            own |= {"classes": list(model.classes), "pooling": model.pooling}
        digests = {"model": _digest_of_model(model), "rows": _digest_of_rows([*rows, *held_out])}
        self.about: dict[str, Any] = {**(about or {}), **own, **digests}
        self.state = self._begin(adapter, resume)
        self._whole = self._saved = self.state

    def _begin(self, adapter: LoRA, resume: bool) -> State:
        path = self.out / CHECKPOINT
        if resume and not path.exists():
            raise ValueError(f"there is no {path}, expected a run to go on with")
        if resume:
            return checkpoint.load(path, adapter, self.about)
        if self.ranks.rank > 0:
            return State(adapter)
        if path.exists():
            raise ValueError(f"{path} is there already: --resume goes on with it, another --out begins anew")
        if (self.out / files.TENSORS).exists():
            raise ValueError(
                f"{self.out / files.TENSORS} is there already, and of no run: another --out leaves it alone"
            )
        self.out.mkdir(parents=True, exist_ok=True)
        state = State(adapter)
        if isinstance(self.model, Classifier):
            write_classes(self.out, self.model.classes, self.model.pooling)
        checkpoint.save(path, state, self.about)  # now, not in an hour: the folder may be read-only or full
        return state

    def go(self) -> Iterator[Event]:
        """What is before the first step, and then all steps that are left. Raises NonFiniteError."""
        self._agree()
        file = MetricsFile(self.out / "metrics.csv", self.state.step) if self.ranks.rank == 0 else None
        held = self.evaluate()
        is_best = self.state.best == Best() and self._counted(held)  # a run that goes on may have counted this one
        if self.state.step == 0:
            self._whole = self.state
            self._save()
            if file is not None and held is not None:
                file.add(0, None, held, 0.0)
        yield Event(self.state.step, None, 0.0, held, is_best, True)
        begin = time.monotonic()
        how: Any = dict(size=self.batch, micro=self.micro, padding=0, ranks=self.ranks)
        steps = loop.run(self.model, self.state, self.rows, self.recipe, **how)
        while not self.ended:
            state, metrics = next(steps)
            self.state = dataclasses.replace(state, best=self.state.best)
            rate, step = metrics.tokens / (time.monotonic() - begin), state.step
            ends = step % self.every == 0 or step == self.recipe.steps
            held = self.evaluate() if ends else None
            is_best = self._counted(held)
            if file is not None:
                file.add(step, metrics, held, rate)
            self._whole = self.state  # counted and in metrics.csv: a run may go on from here
            if ends:
                self._save()
            yield Event(step, metrics, rate, held, is_best, ends)
            begin = time.monotonic()

    @property
    def ended(self) -> bool:
        """Whether all steps are taken, or patience is at its end."""
        tired = self.patience is not None and self.state.best.worse_since >= self.patience
        return tired or self.state.step >= self.recipe.steps

    def evaluate(self) -> Evaluation | None:
        """The held-out rows, if there are any, with the adapter as it is."""
        if not self.held_out:
            return None
        return loop.evaluate_rows(
            self.model, self.state.adapter, self.held_out, micro=self.micro, padding=0, ranks=self.ranks
        )

    def _counted(self, held: Evaluation | None) -> bool:
        """Whether this is the best so far; remembered."""
        if held is None:
            return False
        self.state = dataclasses.replace(self.state, best=self.state.best.after(held.loss, self.state.step))
        return self.state.best.step == self.state.step

    def keep(self) -> int | None:
        """For a run that is stopped between two saves: save the last step that was whole, and say which it is; None on
        ranks that write nothing, which cannot know whether rank 0 still does."""
        if self.ranks.rank > 0:
            return None
        if self._whole.step > self._saved.step:
            self._write(self._whole)
        return self._whole.step

    def _save(self) -> None:
        self._agree()
        self._write(self.state)

    def _write(self, state: State) -> None:
        """The adapter comes first: what a checkpoint says of it is then true, whenever the run is killed."""
        if self.ranks.rank > 0:
            return
        if self.patience is None or state.best.step == state.step:
            files.save(state.adapter, self.out, self.base)
        checkpoint.save(self.out / CHECKPOINT, state, self.about)
        self._saved = state

    def _agree(self) -> None:
        """Raises RanksError unless all ranks hold the same adapter, of the same run."""
        digest = hashlib.sha256(json.dumps([self.about, self.state.step], sort_keys=True).encode())
        for array in self.state.adapter.parameters.values():
            digest.update(np.ascontiguousarray(array).tobytes())
        self.ranks.agree(f"the adapter after step {self.state.step}", digest.hexdigest())


def _check(
    adapter: LoRA, rows: Sequence[Row], held_out: Sequence[Row], *, patience: int | None, **counts: int | None
) -> None:
    """Raises ValueError for what no run can be made of."""
    for name, value in {**counts, "patience": patience}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    if not rows:
        raise ValueError("rows is empty, expected something to learn from")
    if patience is not None and not held_out:
        raise ValueError("held_out is empty, expected rows that patience judges by")
    if isinstance(adapter, Full):
        raise ValueError("a run leaves an adapter as PEFT has it, and full fine-tuning is none: call train_step")


def _digest_of_model(model: Pretrained) -> str:
    """What stands for a model, wherever its files lie: its tensors' names and shapes, and its vectors' numbers."""
    digest = hashlib.sha256(model.kind.encode())
    for name in sorted(model.base):
        shape = model.base.shape(name)
        digest.update(f"{name} {shape}".encode() + (model.base[name].tobytes() if len(shape) == 1 else b""))
    return digest.hexdigest()


def _digest_of_rows(rows: Sequence[Row]) -> str:
    """What stands for all rows in a checkpoint."""
    digest = hashlib.sha256()
    for row in rows:
        for array in (row.tokens, row.labels):
            digest.update(f"{array.shape}".encode() + np.asarray(array, "<i8").tobytes())
    return digest.hexdigest()
