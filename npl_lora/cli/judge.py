"""npl-lora judge: is one step of a real training run right?"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..oracle import Report, overall
from ..oracle.dumps import judge_dump, unjudged
from . import _arguments
from ._output import EXIT_STATUS, reports_as_json, write_text

if TYPE_CHECKING:
    from ._screen import Screen

SUMMARY = "Judge one step of a real training run, saved to a file."

_DESCRIPTION = """\
DUMP is a safetensors file that holds the inputs and the answers of one step, or
a folder of such files. npl_lora.oracle.dumps.capture writes them, for each LoRA
layer of a torch model. If you write your own, set this metadata:
  protocol "1", contract, id, dtype, config (JSON: r, alpha, use_rslora)
A lora_linear step (x, W, A, B, dy, b, mask; y, dx, dA, dB) may have any size,
and may lack every array but A and B: whatever can be judged is judged, and the
report says what could not be. Dumps of other contracts are judged as cases of
npl-lora check are."""

_EXAMPLES = """\
npl-lora judge step.safetensors
npl-lora judge dumps --precision tf32 --json report.json"""

_EXIT_STATUS = """\
0  everything that could be judged is right
1  something is wrong
2  nothing could be judged"""


def add_command(commands: _arguments.Commands) -> None:
    parser = _arguments.add_parser(
        commands, "judge", SUMMARY, _DESCRIPTION, examples=_EXAMPLES, exit_status=_EXIT_STATUS
    )
    parser.add_argument("dumps", nargs="+", metavar="DUMP", type=Path, help="a safetensors file, or a folder of them")
    _arguments.add_precision(parser)
    _arguments.add_json(parser, "the report")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Judge every dump in turn, print a table for each, and return the exit status."""
    from ._screen import Screen

    screen = Screen()
    reports = []
    not_judged = [sentence for dump in arguments.dumps for sentence in unjudged(dump)]
    for path in (file for dump in arguments.dumps for file in _files(dump)):
        report = _judge_one(path, arguments.precision, screen)
        screen.show_dump(report)
        reports.append(report)
    screen.print_not_checked(not_judged)
    if arguments.json_file is not None:
        write_text(arguments.json_file, reports_as_json(reports, not_judged))
    return EXIT_STATUS[overall(reports)]


def _files(dump: Path) -> list[Path]:
    """The dumps in a folder. Anything else is returned as it is: judge_dump says what is wrong with it."""
    return sorted(dump.glob("*.safetensors")) or [dump] if dump.is_dir() else [dump]


def _judge_one(path: Path, inner: str | None, screen: "Screen") -> Report:
    if path.is_dir():
        return Report(str(path), problem="a folder without *.safetensors in it")
    with screen.progress(path.name) as on_progress:
        return judge_dump(path, inner, on_progress)
