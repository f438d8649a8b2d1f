"""metrics.csv: what each step was like, a row a step, for any program that draws curves."""

import csv
from pathlib import Path

from .loop import Evaluation
from .step import Metrics

FIELDS = ("step", "loss", "held_out_loss", "held_out_accuracy", "lr", "gradient_norm", "tokens_per_second")


class MetricsFile:
    """The file of a run that has taken `step` steps: rows of steps that it will take again are left out."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = []
        if path.exists():
            with path.open(newline="") as file:
                kept = [row for row in csv.DictReader(file) if (row.get("step") or "").isdigit()]
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(row for row in kept if int(row["step"]) <= step)

    def add(self, step: int, metrics: Metrics, held_out: Evaluation | None, rate: float) -> None:
        judged = (None, None) if held_out is None else (held_out.loss, held_out.accuracy)
        row = (step, metrics.loss, *judged, metrics.lr, metrics.norm, f"{rate:.1f}")  # None: nothing is written
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(row)
