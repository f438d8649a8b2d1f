"""npl-lora combine: several adapters into one."""

import argparse
from pathlib import Path

from ..adapters import AdapterError, LoRAConfig, files
from ..adapters.combination import WAYS, Layers, combine, error, read_layers
from . import _arguments
from ._errors import CommandError, command_errors

SUMMARY = "Combine several adapters of a model into one."

_DESCRIPTION = """\
Writes one adapter, which PEFT loads, for the sum of what the adapters change:
w_1 s_1 B_1 A_1 + w_2 s_2 B_2 A_2 + ... with the weights w and the scales s.
Needs no model. Adapters that hold more than A and B are refused.

Three ways, as in PEFT's add_weighted_adapter:
  cat     the factors side by side: the exact sum, and the ranks add up
  svd     the nearest adapter of a smaller rank, --svd-rank
  linear  the factors added up: it also has the products of one adapter's B with
          another's A, and is no sum. The ranks must be equal

For each way, the rank and the error |B A - sum| / |sum| are printed (Frobenius
norms over all layers, of the numbers as they are written, float32)."""

_EXAMPLES = """\
npl-lora combine german chat --out both
npl-lora combine german:0.7 chat:0.3 --out both --way svd --svd-rank 16
npl-lora combine german rude:-1 --out polite"""

_EXIT_STATUS = """\
0  done
2  an adapter cannot be used, or --out cannot be written"""


def add_command(commands: _arguments.Commands) -> None:
    parser = _arguments.add_parser(
        commands, "combine", SUMMARY, _DESCRIPTION, examples=_EXAMPLES, exit_status=_EXIT_STATUS
    )
    parser.add_argument(
        "adapters",
        metavar="ADAPTER[:WEIGHT]",
        nargs="+",
        type=_arguments.weighted_adapter,
        help="folders that PEFT or `npl-lora train` wrote, each with its weight, which may be negative (1 without one)",
    )
    _arguments.add_out(parser, "the folder to write; it must not exist yet")
    parser.add_argument("--way", choices=WAYS, default="cat", help="which one is written (default: %(default)s)")
    parser.add_argument(
        "--svd-rank", type=_arguments.positive_count, metavar="R", help="rank of svd (default: the largest of a layer)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the errors of all ways, and write one."""
    out: Path = arguments.out
    if out.exists():
        raise CommandError(f"{out} is there already, and is not written over")
    with command_errors(out):
        layers = read_layers([one.folder for one in arguments.adapters], [one.weight for one in arguments.adapters])
        like = files.load_config(arguments.adapters[0].folder)
        chosen = combine(layers, arguments.way, like, arguments.svd_rank)
        files.save(chosen, out)
    for way in WAYS:
        print(_line(way, layers, like, arguments.svd_rank))
    print(f"{chosen} by {arguments.way} -> {out}")
    return 0


def _line(way: str, layers: Layers, like: LoRAConfig, rank: int | None) -> str:
    try:
        combined = combine(layers, way, like, rank)
    except AdapterError as problem:
        return f"{way:<8}{problem}"
    return f"{way:<8}rank {combined.config.r:<5} error {error(layers, combined):.2g}"
