"""npl-lora bench: what a LoRA training step costs, here and in PyTorch + PEFT."""

import argparse
import json

from ..training.bench import Settings, measure
from ..training.bench.table import table
from . import _arguments
from ._errors import command_errors
from ._output import write_text

SUMMARY = "Measure what a training step costs, here and in PyTorch + PEFT."

_DESCRIPTION = """\
Takes LoRA training steps on random tokens, in float32 with AdamW and alpha 16,
as `npl-lora train` does. With --against torch, PyTorch + PEFT takes the same
steps: the same model (transformers, sdpa attention; weights in float32, with
--coded too), tokens, rank and modules. Other work on the machine slows both
sides down: look at the spread.

What the numbers mean:
  seconds   wall clock of a step: forward, backward, clipping, AdamW. Each side
            is a process of its own. They take turns, and the one that waits
            sleeps (OMP_WAIT_POLICY=PASSIVE and KMP_BLOCKTIME=0 are set for
            both). The first step of each side is a warm-up and is not counted.
            The ratio is taken for each pair of steps.
  memory    of the process, with the interpreter and its libraries. The peak is
            the kernel's (VmHWM, or getrusage). Memory without mapped files
            (RssAnon) is read every 20 ms, and the largest value is shown. Pages
            of a mapped checkpoint count as memory, but the system takes them
            back when it needs them. 1 GB is 10^9 bytes.
  loss      of the warm-up step. B is 0 there, so it is the loss of the model
            itself: if the two sides differ by more than rounding, they do not
            compute the same thing."""

_EXAMPLES = """\
npl-lora bench model.gguf
npl-lora bench model --against torch --batch 4 --threads 8 --json figures.json"""

_EXIT_STATUS = """\
0  done
2  bad input, or a side that failed"""

_SETTINGS = ("batch", "length", "rank", "target_modules", "coded", "recompute", "steps", "seed")


def add_command(commands: _arguments.Commands) -> None:
    parser = _arguments.add_parser(
        commands, "bench", SUMMARY, _DESCRIPTION, examples=_EXAMPLES, exit_status=_EXIT_STATUS
    )
    _arguments.add_model(parser)
    _arguments.add_batch(parser, 2, "rows in a step")
    _arguments.add_length(parser, 512, "tokens in a row")
    _arguments.add_rank(parser, 8)
    _arguments.add_target_modules(parser)
    _arguments.add_coded(parser)
    parser.add_argument(
        "--recompute",
        action="store_true",
        help="keep only the input of each block for the backward pass, and compute its forward pass again; in PyTorch"
        " too (default: keep everything, unless --coded keeps the weights quantised, which recomputes in any case)",
    )
    _arguments.add_steps(parser, 3, "steps to count on each side")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads of each side (default: what the environment sets)"
    )
    _arguments.add_seed(parser, "the tokens and the adapter")
    parser.add_argument("--against", choices=["torch"], help="also measure this; needs the extra torch (default: none)")
    _arguments.add_json(parser, "all numbers")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    from ._screen import Screen

    screen = Screen()
    with command_errors(arguments.model):
        settings = Settings(str(arguments.model), **{name: getattr(arguments, name) for name in _SETTINGS})
        sides = ("npl-lora",) if arguments.against is None else ("npl-lora", arguments.against)
        figures = measure(settings, sides, arguments.threads, on_progress=screen.note)
    print(table(figures))
    if arguments.json_file is not None:
        write_text(arguments.json_file, json.dumps(figures, indent=2) + "\n")
    return 0
