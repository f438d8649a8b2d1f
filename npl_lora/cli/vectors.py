"""npl-lora vectors: the cases and their right answers as files, and judging answers to them."""

import argparse
import sys
from pathlib import Path

from ..oracle import CONTRACTS, DTYPES
from ..oracle.deviations import DeviationsError, expecting, read_deviations
from ..oracle.vectors import VectorsError, judge_vectors, write_vectors
from ..support.extras import require
from .check import _EXIT, _as_json, _dtypes, _write, add_expect_fail

_DESCRIPTION = """\
Golden vectors for any language: every case with its right answers as safetensors, and a manifest in JSON that says for
each what is asked, where the files are, and which faults it catches. The same bytes are written everywhere."""

_EPILOG = """\
exit status of judge: 0 all that was asked is right, 1 something is wrong, 2 nothing could be judged"""


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "vectors",
        help="write the cases and their right answers as files, and judge answers to them",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    _add_write(actions)
    _add_judge(actions)


def _add_write(actions: argparse._SubParsersAction) -> None:
    write = actions.add_parser("write", help="write the vectors into a new or empty folder")
    write.add_argument("folder", metavar="DIR", type=Path, help="where the manifest and the files go")
    write.add_argument("--contract", choices=CONTRACTS, metavar="NAME", help="write this contract only")
    write.add_argument("--dtype", type=_dtypes, metavar="LIST", help=f"of {','.join(DTYPES)} (default: all)")
    write.set_defaults(run=run_write)


def _add_judge(actions: argparse._SubParsersAction) -> None:
    judge = actions.add_parser("judge", help="judge answers to the vectors")
    judge.add_argument("folder", metavar="DIR", type=Path, help="the vectors")
    judge.add_argument("results", metavar="RESULTS", type=Path, help="the answers: RESULTS/<id>.safetensors")
    add_expect_fail(judge)
    judge.add_argument("--json", metavar="FILE", dest="json_file", type=Path, help="write the whole report there")
    judge.set_defaults(run=run_judge)


def run_write(arguments: argparse.Namespace) -> int:
    """Write the vectors, and return the exit status."""
    require("rich", "cli", "the command line")
    require("mpmath", "vectors", "writing vectors")
    from .report import Screen

    screen = Screen()
    try:
        with screen.progress("vectors") as on_case:
            count = write_vectors(
                arguments.folder, contract=arguments.contract, dtypes=arguments.dtype, on_case=on_case
            )
    except VectorsError as error:
        return _refuse(str(error))
    screen.lines([f"{count} vectors in {arguments.folder}"])
    return 0


def run_judge(arguments: argparse.Namespace) -> int:
    """Judge the answers, print the table, and return the exit status."""
    require("rich", "cli", "the command line")
    from .report import Screen

    screen = Screen()
    try:
        reasons = read_deviations(arguments.expect_fail) if arguments.expect_fail else {}
    except DeviationsError as error:
        return _refuse(str(error))
    with screen.progress(str(arguments.results)) as on_case:
        report = expecting(judge_vectors(arguments.folder, arguments.results, on_case), reasons)
    screen.show(report)
    body = _as_json([report], report.verdict)
    if arguments.json_file is not None and (problem := _write("--json", arguments.json_file, body)):
        return _refuse(problem)
    return _EXIT[report.verdict]


def _refuse(sentence: str) -> int:
    print(f"npl-lora vectors: {sentence}", file=sys.stderr)
    return 2
