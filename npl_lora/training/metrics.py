"""metrics.csv: a row of metrics for each step, for any program that draws curves. Row 0 has the held-out loss before
the first step."""

import csv
from pathlib import Path

from ..support.files import write_atomically
from .loop import Evaluation
from .step import Metrics

FIELDS = ("step", "loss", "held_out_loss", "held_out_accuracy", "lr", "gradient_norm", "tokens_per_second")


class MetricsFile:
    """The file of a run that has taken `step` steps. Rows of later steps are dropped: the run will take them again."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) if path.exists() else []
        steps = range(step + 1) if step else ()  # a run that has taken no step writes row 0 again
        lines = [line for line in lines if line.endswith("\n") and _step(line) in steps]  # a kill may cut the last line
        write_atomically(path, "".join([",".join(FIELDS) + "\n", *lines]).encode())

    def add(self, step: int, metrics: Metrics | None, held_out: Evaluation | None, rate: float) -> None:
        evaluation = (None, None) if held_out is None else (held_out.loss, held_out.accuracy)
        if metrics is None:
            row: tuple[object, ...] = (step, None, *evaluation, None, None, None)  # None leaves the field empty
        else:
            row = (step, metrics.loss, *evaluation, metrics.lr, metrics.norm, f"{rate:.1f}")
        with self.path.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(row)


def _step(line: str) -> int:
    """The step of a row, -1 if the line is not one."""
    number = line.partition(",")[0]
    return int(number) if number.isdecimal() and len(number) < 10 and line.count(",") == len(FIELDS) - 1 else -1
