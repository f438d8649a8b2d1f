"""The command line. Thin: it parses, calls, and prints. Each public module holds one command."""

import argparse
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..support.extras import MissingExtraError
from . import bench, budget, check, combine, eval, faults, generate, inspect, judge, matrix, merge, train, vectors
from ._arguments import Parser
from ._errors import CommandError, print_error

# By who uses them. A command is a module with SUMMARY, one sentence, and add_command.
_COMMANDS = {
    "check implementations of LoRA": (check, judge, vectors, matrix, faults),
    "run and train models": (train, generate, eval, merge, combine, inspect, budget, bench),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    try:
        arguments = _parser().parse_args(argv)
        return arguments.run(arguments)
    except CommandError as error:
        print_error(str(error))
        return error.status
    except MissingExtraError as error:
        print_error(str(error))
        return 2
    except KeyboardInterrupt:
        print_error("interrupted")
        return 130
    except BrokenPipeError:  # the reader has seen enough, as `| head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes stdout when it exits
        return 128 + 13


def _parser() -> Parser:
    parser = Parser(
        prog="npl-lora",
        usage="npl-lora [-h] [--version] COMMAND ...",
        description=_description(),
        epilog="npl-lora COMMAND --help describes a command, with examples.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"npl-lora {__version__}")
    commands = parser.add_subparsers(prog="npl-lora", required=True, metavar="COMMAND", help=argparse.SUPPRESS)
    for modules in _COMMANDS.values():
        for module in modules:
            module.add_command(commands)
    return parser


def _description() -> str:
    lines = ["LoRA in NumPy: check an implementation against a proved one; train real models."]
    for group, modules in _COMMANDS.items():
        lines += ["", f"{group}:"]
        lines += [f"  {module.__name__.rpartition('.')[2]:<10}{module.SUMMARY}" for module in modules]
    return "\n".join(lines)
