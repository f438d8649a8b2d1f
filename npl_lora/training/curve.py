"""The loss curve: metrics.csv as an image."""

import csv
import io
from pathlib import Path

from ..support.extras import require
from ..support.files import write_atomically


def draw(folder: Path) -> Path:
    """Write curve.png next to metrics.csv: the loss of each step, smoothed, and the held-out loss. Returns its path.
    Raises MissingExtraError without matplotlib."""
    figure = require("matplotlib.figure", "plots", "the loss curve").Figure(figsize=(8, 4.5), layout="constrained")
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    losses = {int(row["step"]): float(row["loss"]) for row in rows if row["loss"]}
    held = [(int(row["step"]), float(row["held_out_loss"])) for row in rows if row["held_out_loss"]]
    axes = figure.subplots()
    axes.plot(losses.keys(), losses.values(), color="tab:blue", alpha=0.25, linewidth=1, label="a step's batch")
    axes.plot(losses.keys(), running_means(list(losses.values())), color="tab:blue", label="smoothed")
    if held:
        axes.plot(*zip(*held, strict=True), color="tab:orange", marker="o", markersize=4, label="held out")
    axes.set(xlabel="step", ylabel="loss")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_atomically(folder / "curve.png", picture.getvalue())
    return folder / "curve.png"


def running_means(values: list[float], keep: float = 0.9) -> list[float]:
    """Running means m <- keep m + (1 - keep) v. Each is divided by 1 - keep^t as in Adam, so the first is v itself."""
    mean, means = 0.0, []
    for t, value in enumerate(values, 1):
        mean = keep * mean + (1.0 - keep) * value
        means.append(mean / (1.0 - keep**t))
    return means
