"""npl-lora judge: is one step out of a real training run right?"""

import argparse
import sys
from pathlib import Path

from ..oracle import Report, overall
from ..oracle.dumps import judge_dump
from ..oracle.tolerance.rounding import INNER
from ..support.extras import require
from .check import _EXIT, _as_json, _write

_DESCRIPTION = """\
Judge a step of a real training run: a safetensors file that holds inputs and answers together.

DUMP is a file, or a folder of them: what npl_lora.oracle.dumps.capture writes, or your own with the metadata
  protocol "1" · contract · id · dtype · config (JSON: r, alpha, use_rslora)
A lora_linear step (x, W, A, B, dy, b, mask; y, dx, dA, dB) may be of any size, and may lack all but A and B: what is
there is judged, and what could not be seen is said. Dumps of other contracts are judged as cases are."""

_EPILOG = "exit status: 0 all that could be judged is right, 1 something is wrong, 2 nothing could be judged"


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "judge",
        help="judge a dump of a real training step",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dumps", nargs="+", metavar="DUMP", type=Path, help="a safetensors file, or a folder of them")
    parser.add_argument(
        "--precision", choices=INNER, help="let matrix products round what goes into them to this (default: not at all)"
    )
    parser.add_argument("--json", metavar="FILE", dest="json_file", type=Path, help="write the whole report there")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Judge every dump in turn, print a table for each, and return the exit status."""
    require("rich", "cli", "the command line")
    from .judge_report import Screen

    screen = Screen()
    reports = []
    for path in (file for dump in arguments.dumps for file in _files(dump)):
        report = _judge_one(path, arguments.precision, screen)
        screen.show(report)
        reports.append(report)
    verdict = overall(reports)
    file = arguments.json_file
    if file is not None and (problem := _write("--json", file, _as_json(reports, verdict))):
        print(f"npl-lora judge: {problem}", file=sys.stderr)
        return 2
    return _EXIT[verdict]


def _files(dump: Path) -> list[Path]:
    """The dumps in a folder; a file, and whatever else, is left to the judge to look at."""
    return sorted(dump.glob("*.safetensors")) or [dump] if dump.is_dir() else [dump]


def _judge_one(path: Path, inner: str | None, screen) -> Report:
    if path.is_dir():
        return Report(str(path), problem="a folder without *.safetensors in it")
    with screen.progress(path.name) as on_progress:
        return judge_dump(path, inner, on_progress)
