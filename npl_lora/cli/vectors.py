"""npl-lora vectors: the cases and their right answers as files, and judging answers to them."""

import argparse
from pathlib import Path

from ..oracle.deviations import excuse
from ..oracle.vectors import VectorsError, judge_vectors, write_vectors
from ..support.extras import require
from . import _arguments
from ._errors import CommandError
from ._output import EXIT_STATUS, reports_as_json, write_text

SUMMARY = "Write the cases and right answers as files, or judge answers."

_DESCRIPTION = """\
Golden vectors for any language: the cases and their right answers as
safetensors files, and a manifest in JSON that lists the contract of each case,
its files and the faults that it catches. The same bytes are written on every
machine."""

_EXAMPLES = """\
npl-lora vectors write vectors --contract lora_linear
npl-lora vectors judge vectors results"""

_WRITE_DESCRIPTION = """\
DIR gets manifest.json and three folders of safetensors: cases (the inputs),
answers (what is right, in float64) and allowed (how far off each number may
be)."""

_JUDGE_DESCRIPTION = """\
RESULTS holds one safetensors file for each case, RESULTS/<id>.safetensors. The
answers are judged, and faults named, as npl-lora check does."""

_JUDGE_EXIT_STATUS = """\
0  everything that was asked is right
1  something is wrong
2  nothing could be judged"""

_WRITE_EXIT_STATUS = """\
0  the vectors are written
2  they could not be written"""


def add_command(commands: _arguments.Commands) -> None:
    parser = _arguments.add_parser(
        commands,
        "vectors",
        SUMMARY,
        _DESCRIPTION,
        examples=_EXAMPLES,
        exit_status="see npl-lora vectors write --help, npl-lora vectors judge --help",
    )
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    _add_write(actions)
    _add_judge(actions)


def _add_write(actions: _arguments.Commands) -> None:
    parser = _arguments.add_parser(
        actions,
        "write",
        "Write the cases and their right answers into a new or empty folder.",
        _WRITE_DESCRIPTION,
        examples="npl-lora vectors write vectors --contract lora_linear --dtype float32",
        exit_status=_WRITE_EXIT_STATUS,
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="the folder to write, new or empty")
    _arguments.add_contract(parser)
    _arguments.add_dtypes(parser)
    parser.set_defaults(run=run_write)


def _add_judge(actions: _arguments.Commands) -> None:
    parser = _arguments.add_parser(
        actions,
        "judge",
        "Judge answers to the vectors.",
        _JUDGE_DESCRIPTION,
        examples="npl-lora vectors judge vectors results --json report.json",
        exit_status=_JUDGE_EXIT_STATUS,
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="the vectors, as `npl-lora vectors write` wrote them")
    parser.add_argument("results", metavar="RESULTS", type=Path, help="the folder of your answers")
    _arguments.add_expect_fail(parser)
    _arguments.add_json(parser, "the report")
    parser.set_defaults(run=run_judge)


def run_write(arguments: argparse.Namespace) -> int:
    """Write the vectors, and return the exit status."""
    from ._screen import Screen

    require("mpmath", "vectors", "writing vectors")
    screen = Screen()
    try:
        with screen.case_progress("vectors") as on_case:
            count = write_vectors(
                arguments.folder, contract=arguments.contract, dtypes=arguments.dtype, on_case=on_case
            )
    except VectorsError as error:
        raise CommandError(str(error)) from None
    screen.print_sentences([f"{count} vectors in {arguments.folder}"])
    return 0


def run_judge(arguments: argparse.Namespace) -> int:
    """Judge the answers, print the table, and return the exit status."""
    from ._screen import Screen

    screen = Screen()
    with screen.case_progress(str(arguments.results)) as on_case:
        report = judge_vectors(arguments.folder, arguments.results, on_case)
    report = excuse(report, arguments.expect_fail or {})
    screen.show(report)
    if arguments.json_file is not None:
        write_text(arguments.json_file, reports_as_json([report]))
    return EXIT_STATUS[report.verdict]
