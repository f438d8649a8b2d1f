"""A run: a model, an adapter, rows to learn from and rows to judge by, and a folder that keeps all that comes of it.

    run = Run(model, adapter, rows, held_out, Recipe(steps=100), Path("out"))
    for event in run.go():
        print(event)

In the folder are, after each event that has `saved` set, the adapter as PEFT has it, a checkpoint from which a run that
was stopped goes on to the same bits, and metrics.csv with a row for each step.
"""

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..adapters import LoRA, files
from ..models import Model
from . import checkpoint, loop
from .data import Row
from .metrics import MetricsFile
from .step import Metrics, Recipe, State


@dataclass(frozen=True)
class Event:
    """After `step` steps: what the last one was like (None before the first), the labels learned a second, the loss on
    the held-out rows where it was asked for, and whether all is on the disk."""

    step: int
    metrics: Metrics | None
    rate: float
    held_out: float | None
    saved: bool


class Run:
    """What can be refused is refused here, before the first step.

    rows: to learn from. held_out: to judge by, which may be none. out: the folder. batch: rows a step, micro_batch:
    rows at a time. every: steps between evaluations, each of which saves. base: the model's name, for the
    file.
    resume: go on from the checkpoint in out, which must be of the same recipe, adapter, batch and `about`, and which
    is not written over otherwise. Raises ValueError, CheckpointError and OSError.
    """

    def __init__(
        self,
        model: Model,
        adapter: LoRA,
        rows: Sequence[Row],
        held_out: Sequence[Row],
        recipe: Recipe,
        out: Path,
        *,
        batch: int = 4,
        micro_batch: int | None = None,
        every: int = 25,
        base: str | None = None,
        about: Mapping[str, Any] | None = None,
        resume: bool = False,
    ) -> None:
        self.model, self.rows, self.held_out, self.recipe = model, rows, held_out, recipe
        self.out, self.batch, self.micro, self.every, self.base = out, batch, micro_batch or batch, every, base
        own = {"batch": str(batch), "recipe": dataclasses.asdict(recipe), "adapter": adapter.config.as_json()}
        self.about: dict[str, Any] = {**(about or {}), **own}
        self.state = self._begin(adapter, resume)

    def _begin(self, adapter: LoRA, resume: bool) -> State:
        path = self.out / "checkpoint.safetensors"
        if resume:
            return checkpoint.load(path, adapter, self.about)
        if path.exists():
            raise ValueError(f"{path} is there already: --resume goes on with it, another --out begins anew")
        self.out.mkdir(parents=True, exist_ok=True)
        state = State(adapter)
        checkpoint.save(path, state, self.about)  # now, not in an hour: the folder may be read-only or full
        return state

    def go(self) -> Iterator[Event]:
        """What is before the first step, and then all steps that are left. Raises NonFiniteError."""
        file = MetricsFile(self.out / "metrics.csv", self.state.step)
        yield Event(self.state.step, None, 0.0, self.evaluate(), True)
        begin = time.monotonic()
        how = dict(size=self.batch, micro=self.micro, padding=0)
        for state, metrics in loop.run(self.model, self.state, self.rows, self.recipe, **how):
            self.state = state
            rate, step = metrics.count / (time.monotonic() - begin), state.step
            ends = step % self.every == 0 or step == self.recipe.steps
            held = self.evaluate() if ends else None
            file.add(step, metrics, held, rate)
            if ends:
                self._save()
            yield Event(step, metrics, rate, held, ends)
            begin = time.monotonic()

    def evaluate(self) -> float | None:
        """The loss on the held-out rows."""
        if not self.held_out:
            return None
        return loop.evaluate(self.model, self.state.adapter, self.held_out, micro=self.micro, padding=0)

    def _save(self) -> None:
        checkpoint.save(self.out / "checkpoint.safetensors", self.state, self.about)
        files.save(self.state.adapter, self.out, self.base)
