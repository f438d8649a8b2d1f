"""npl-lora inspect: what an adapter is, and whether it is healthy."""

import argparse
import json
from itertools import groupby
from pathlib import Path

from ..adapters import spectra
from ..adapters.inspection import Inspection, Layer, as_json, inspect
from . import _arguments
from ._errors import command_errors
from ._output import write_text

SUMMARY = "Show what an adapter is, and whether it is healthy."

_DESCRIPTION = """\
Reads adapter_config.json and adapter_model.safetensors, and needs no model.
Prints a line for each layer, then what is wrong, and what PEFT does with it:
tensors that are empty or not finite, layers that never trained, tensors and
configuration that contradict each other, keys that PEFT does not find.

What the columns mean:
  shape     of the layer's weight, (out, in); of an embedding's table, (V, D)
  scale     s = alpha / r, or alpha / sqrt(r) with rsLoRA
  |A| |B|   Frobenius norms; |sBA| is that of the change of the weight
  largest, smallest
            singular values of s B A, computed from A and B by QR. All of them
            are in --json and --plot
  eff. rank the effective rank, exp of the entropy of the singular values
            divided by their sum (Roy and Vetterli 2007): k if k are equal and
            the others 0"""

_EXAMPLES = """\
npl-lora inspect adapter
npl-lora inspect adapter --plot spectra.svg --json adapter.json"""

_EXIT_STATUS = """\
0  nothing is wrong that can be seen without the model
1  something is wrong
2  the files cannot be read, or hold no LoRA adapter"""


def add_command(commands: _arguments.Commands) -> None:
    parser = _arguments.add_parser(
        commands, "inspect", SUMMARY, _DESCRIPTION, examples=_EXAMPLES, exit_status=_EXIT_STATUS
    )
    parser.add_argument(
        "adapter", metavar="ADAPTER", type=Path, help="a folder that PEFT or `npl-lora train` wrote, see above"
    )
    _arguments.add_json(parser, "everything, with all singular values,")
    _arguments.add_file(parser, "--plot", "also draw the singular values into this file, as SVG; needs the extra plots")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the inspection."""
    with command_errors(arguments.adapter):
        found = inspect(arguments.adapter)
    print(_table(found))
    if arguments.json_file is not None:
        write_text(arguments.json_file, json.dumps(as_json(found), indent=1) + "\n")
    if arguments.plot_file is not None:
        with command_errors(arguments.plot_file):
            spectra.draw(found, arguments.plot_file)
    return 1 if found.findings else 0


def _table(found: Inspection) -> str:
    lines = [
        f"{found.method}, r = {found.rank}, alpha = {found.alpha:g}, init_lora_weights = {json.dumps(found.init)},"
        f" for {found.base_model or 'a model that is not named'}",
        f"{found.parameters:,} parameters in {', '.join(found.dtypes)}; {len(found.layers)} layers with A and B,"
        f" {len(found.others)} other tensors",
        "",
        *_rows([_TITLES, *map(_cells, found.layers)]),
        "",
    ]
    for peft, findings in groupby(found.findings, lambda finding: finding.peft):
        lines += [*(finding.says for finding in findings), f"    {peft}"]
    return "\n".join(lines if found.findings else [*lines, "nothing is wrong that can be seen without the model"])


_TITLES = ("layer", "shape", "r", "scale", "|A|", "|B|", "|sBA|", "largest", "smallest", "eff. rank")


def _cells(layer: Layer) -> tuple[str, ...]:
    numbers = (layer.scale, layer.norm_A, layer.norm_B, layer.norm, layer.singular_values[0], layer.singular_values[-1])
    shape = " x ".join(map(str, layer.shape))
    return (layer.path, shape, str(layer.rank), *(f"{n:.3g}" for n in numbers), f"{layer.effective_rank:.2f}")


def _rows(cells: list[tuple[str, ...]]) -> list[str]:
    """The cells in columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]
