"""The singular values of every layer of an adapter, as a picture in one SVG file that needs no other file."""

import io
from pathlib import Path

from ..support.extras import require
from ..support.files import write_atomically
from .inspection import Inspection


def draw(inspection: Inspection, path: Path) -> None:
    """One line a layer: its singular values that are not 0, largest first, on a logarithmic axis. Layers whose paths
    end in the same name share a colour. Raises MissingExtraError without matplotlib."""
    figure = require("matplotlib.figure", "plots", "a picture of the spectra").Figure(
        figsize=(8, 4.5), layout="constrained"
    )
    axes, colours = figure.subplots(), dict[str, str]()
    for layer in inspection.layers:
        values = [value for value in layer.singular_values if value > 0]
        if not values:
            continue
        name = layer.path.rpartition(".")[2]
        label = None if name in colours else name
        colour = colours.setdefault(name, f"C{len(colours) % 10}")
        ranks = range(1, len(values) + 1)
        style = dict(color=colour, alpha=0.5, linewidth=1, marker=".", markersize=4)
        axes.plot(ranks, values, **style, label=label, gid=layer.path)
    axes.set(xlabel="number of the singular value", ylabel="singular value of s B A", yscale="log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    if colours:
        axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="svg", metadata={"Date": None})
    write_atomically(path, picture.getvalue())
