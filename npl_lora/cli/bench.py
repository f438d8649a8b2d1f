"""npl-lora bench: what a LoRA training step costs, here and in PyTorch + PEFT."""

import argparse
import json
import sys
from pathlib import Path

from ..support.extras import require
from ..support.files import write_atomically
from ..training.bench import Settings, measure
from ..training.bench.table import table

_DESCRIPTION = """\
Measure LoRA training steps on random tokens, in float32 with AdamW, as `npl-lora train` takes them; with --against
torch those of PyTorch + PEFT on the same model, tokens, rank and modules too (transformers' model, sdpa attention).
MODEL is a folder (config.json, safetensors) or a .gguf file of a language model.

Where the numbers come from:
  seconds   wall clock around a step: forward, backward, clipping, AdamW. Each side is a process of its own; they take
            their steps in turns, and the one that waits sleeps: OMP_WAIT_POLICY=PASSIVE and KMP_BLOCKTIME=0 are set for
            both. The first step of each warms up and is not counted. The ratio is that of each pair of steps.
  memory    of the process, the interpreter and its libraries included. The peak is the kernel's (VmHWM, or getrusage);
            without mapped files (RssAnon) it is the most that was seen, looking every 20 ms. Pages of a mapped
            checkpoint count as memory, but the system takes them back when it needs them. 1 GB is 10^9 bytes.
  loss      of the step that warms up. B is 0 there, so it is the model's own: if the two sides differ by more than
            rounding, they do not compute the same.
Other work on the machine makes both sides slower: look at the spread."""

_EPILOG = "exit status: 0 done, 2 bad input or a side that failed"


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "bench",
        help="what a training step costs, here and in PyTorch + PEFT",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="a folder or a .gguf file")
    parser.add_argument("--batch", type=int, default=2, metavar="N", help="rows a step (default: 2)")
    parser.add_argument("--length", type=int, default=512, metavar="N", help="tokens a row (default: 512)")
    parser.add_argument("--rank", type=int, default=8, metavar="R", help="default: 8; the scale is 16 / R")
    parser.add_argument("--target-modules", metavar="NAMES", help="names, comma-separated (default: the model's usual)")
    parser.add_argument("--coded", action="store_true", help="leave the weights as they are stored, here; PyTorch has"
                        " them in float32 in any case")  # fmt: skip
    parser.add_argument("--recompute", action="store_true", help="keep little for the backward, and compute the forward"
                        " of each block again; in PyTorch too (here weights that stay coded imply it)")  # fmt: skip
    parser.add_argument("--steps", type=int, default=3, metavar="N", help="of each side (default: 3)")
    parser.add_argument("--threads", type=int, metavar="N", help="of each side (default: as the environment has it)")
    parser.add_argument("--seed", type=int, default=0, help="of the tokens and the adapter (default: 0)")
    parser.add_argument("--against", choices=["torch"], help="measure this beside it (extra torch)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all numbers there too")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    require("rich", "cli", "the command line")
    from rich.console import Console

    names = arguments.target_modules
    console = Console(stderr=True, markup=False, highlight=False)
    try:
        settings = Settings(
            str(arguments.model),
            target_modules=names if names in (None, "all-linear") else names.split(","),
            **{name: getattr(arguments, name) for name in _SAME},
        )
        sides = ("npl-lora",) if arguments.against is None else ("npl-lora", arguments.against)
        found = measure(settings, sides, arguments.threads, seen=console.print)
        print(table(found))
        if arguments.json is not None:
            write_atomically(arguments.json, (json.dumps(found, indent=2) + "\n").encode())
    except ValueError as error:
        print(f"npl-lora bench: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"npl-lora bench: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


_SAME = ("batch", "length", "rank", "coded", "recompute", "steps", "seed")
