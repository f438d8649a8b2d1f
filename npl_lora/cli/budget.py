"""npl-lora budget: what a training step will cost, from config.json alone."""

import argparse
import dataclasses
import json

from ..adapters import LoRAConfig
from ..models import plan
from ..training.budget import Budget, budget
from . import _arguments
from ._errors import command_errors
from ._output import write_text

SUMMARY = "Tell what a training step will cost, from config.json alone."

_DESCRIPTION = """\
Prints memory and operations of a step of `npl-lora train` (float32, AdamW,
weights decoded, no dropout), with LoRA and with full fine-tuning. No weight is
read: a folder with config.json is enough. --batch is the rows at a time
(`npl-lora train --micro-batch`). GB are 10^9 bytes, GFLOP 10^9 operations.

What the rows mean:
  trained parameters  numbers that training changes
  weights             the model, which stays as it is
  trained             A and B; for full fine-tuning, a copy of the weights
  optimiser           AdamW's two means of each trained parameter
  gradients           of each trained parameter
  new values          parameters and means after the step, beside the old ones
  activations         what the forward keeps for the backward
  loss, backward      what the loss, and one block's backward, need for a while
  peak                the most at one time; not all of these are there at once.
                      Add about 0.1 GB for Python and its libraries
  operations          of matrix products; a product and a sum count as two"""

_EXAMPLES = """\
npl-lora budget model
npl-lora budget model --rank 16 --target-modules all-linear --length 1024"""

_EXIT_STATUS = """\
0  done
2  config.json or the options cannot be used"""


def add_command(commands: _arguments.Commands) -> None:
    parser = _arguments.add_parser(
        commands, "budget", SUMMARY, _DESCRIPTION, examples=_EXAMPLES, exit_status=_EXIT_STATUS
    )
    _arguments.add_model(parser)
    _arguments.add_rank(parser, 8)
    _arguments.add_target_modules(parser)
    _arguments.add_batch(parser, 4, "rows in a step")
    _arguments.add_length(parser, 256, "tokens in a row")
    _arguments.add_json(parser, "all numbers, in bytes and operations,")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    with command_errors(arguments.model):
        model = plan(arguments.model)
        targets = model.targets if arguments.target_modules is None else arguments.target_modules
        lora = LoRAConfig(r=arguments.rank, target_modules=targets)
        sizes = (arguments.batch, arguments.length)
        costs = {"LoRA": budget(model, lora, *sizes), "full": budget(model, None, *sizes)}
    names = targets if isinstance(targets, str) else ", ".join(targets)
    print(f"{model.kind}, {costs['full'].trained:,} parameters; {sizes[0]} x {sizes[1]} tokens", end="")
    print(f"; LoRA of rank {arguments.rank} on {names}\n")
    print(_table(costs))
    if arguments.json_file is not None:
        write_text(arguments.json_file, json.dumps({n: _figures(c) for n, c in costs.items()}, indent=2) + "\n")
    return 0


_BYTES = {
    "weights": "weights",
    "trained": "copies",
    "optimiser": "optimiser",
    "gradients": "gradients",
    "new values": "update",
    "activations": "activations",
    "loss": "loss",
    "backward": "backward",
    "peak": "peak",
}


def _table(costs: dict[str, Budget]) -> str:
    rows = [("", *costs), ("trained parameters", *(f"{cost.trained:,}" for cost in costs.values()))]
    for name, field in _BYTES.items():
        rows.append((name, *(f"{getattr(cost, field) / 1e9:,.3f} GB" for cost in costs.values())))
    rows.append(("operations", *(f"{cost.operations / 1e9:,.1f} GFLOP" for cost in costs.values())))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([name.ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells, widths[1:], strict=True))])
        for name, *cells in rows
    )


def _figures(cost: Budget) -> dict[str, int]:
    return {**dataclasses.asdict(cost), "peak": cost.peak, "operations": cost.operations}
