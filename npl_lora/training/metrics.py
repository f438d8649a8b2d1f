"""metrics.csv: what each step was like, a row a step, for any program that draws curves. Row 0 is how the held-out rows
fared before the first step."""

import csv
from pathlib import Path

from ..support.files import write_atomically
from .loop import Evaluation
from .step import Metrics

FIELDS = ("step", "loss", "held_out_loss", "held_out_accuracy", "lr", "gradient_norm", "tokens_per_second")


class MetricsFile:
    """The file of a run that has taken `step` steps: rows of steps that it will take again are left out."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) if path.exists() else []
        steps = range(step + 1) if step else ()  # one that has taken none says row 0 again
        kept = [line for line in kept if line.endswith("\n") and _step(line) in steps]  # a kill may cut the last one
        write_atomically(path, "".join([",".join(FIELDS) + "\n", *kept]).encode())

    def add(self, step: int, metrics: Metrics | None, held_out: Evaluation | None, rate: float) -> None:
        judged = (None, None) if held_out is None else (held_out.loss, held_out.accuracy)
        if metrics is None:
            row: tuple[object, ...] = (step, None, *judged, None, None, None)  # None: nothing is written
        else:
            row = (step, metrics.loss, *judged, metrics.lr, metrics.norm, f"{rate:.1f}")
        with self.path.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(row)


def _step(line: str) -> int:
    """The step of a row, -1 for what is none."""
    number = line.partition(",")[0]
    return int(number) if number.isdecimal() and len(number) < 10 and line.count(",") == len(FIELDS) - 1 else -1
