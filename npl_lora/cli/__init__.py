"""The command line. Thin: it parses, calls, and prints."""

import argparse
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..support.extras import MissingExtraError
from . import bench, check, eval, faults, generate, judge, matrix, merge, train, vectors


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="npl-lora",
        description="LoRA in NumPy: checks implementations against one with proved gradients, and runs real models.",
    )
    parser.add_argument("--version", action="version", version=f"npl-lora {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    bench.add_command(commands)
    check.add_command(commands)
    eval.add_command(commands)
    faults.add_command(commands)
    generate.add_command(commands)
    judge.add_command(commands)
    matrix.add_command(commands)
    merge.add_command(commands)
    train.add_command(commands)
    vectors.add_command(commands)
    arguments = parser.parse_args(argv)
    try:
        return arguments.run(arguments)
    except MissingExtraError as error:
        print(f"npl-lora: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("npl-lora: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever reads it has read enough, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor may the interpreter flush it at its end
        return 128 + 13
