"""npl-lora matrix: check every shipped library that is installed, and write the table of what each does."""

import argparse
import json
import sys
from pathlib import Path

from ..oracle import TargetError, check, open_subject
from ..oracle.libraries.matrix import column, document, known_throughout, matrix, table
from ..oracle.libraries.table import LIBRARIES
from ..oracle.report import Report
from ..support.extras import require
from ..support.ranks import Ranks, join_ranks
from ._many import together

_TIMEOUT = 300.0  # seconds a case: a cold compiler is slow

_DESCRIPTION = """\
Ask every real library that is installed every case of every contract that it bears, and print what each does.

pass            all that it was asked is right
convention      it keeps to another definition, which is said below the table
fault           it is wrong, which is said below the table
fail            it is wrong, and not known to be
Behind the word: how many cases passed of how many were asked, and how many the library has not."""


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "matrix",
        help="check the libraries that are installed, and write the table",
        description=_DESCRIPTION,
        epilog="exit status: 0 every failure is a known one, 1 some are not, 2 nothing could be checked",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the table and the examples there")
    parser.add_argument("--json", metavar="FILE", dest="json_file", type=Path, help="write everything there")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check the libraries, print the table, write the files, and return the exit status."""
    require("rich", "cli", "the command line")
    ranks = join_ranks()
    with together("matrix", ranks):
        return _run(arguments, ranks)


def _run(arguments: argparse.Namespace, ranks: Ranks) -> int:
    """Each library is checked by one rank; rank 0 prints and writes, and all know how it ended."""
    from .report import Screen

    screen = Screen(quiet=ranks.rank > 0)
    obstacles = {name: library.obstacle() for name, library in LIBRARIES.items()}
    installed = [name for name, sentence in obstacles.items() if not sentence]
    reports = dict(zip(installed, ranks.each(lambda name: _check_one(name, screen), installed), strict=True))
    for report in reports.values():
        if report.problem:
            screen.show(report)
    columns = {name: column(report, LIBRARIES[name]) for name, report in reports.items() if not report.problem}
    screen.not_installed([sentence for sentence in obstacles.values() if sentence])
    if not columns:
        return _refuse("no library could be checked") if ranks.rank == 0 else 2
    whole = matrix(columns)
    if ranks.rank == 0:
        print(table(whole))
        written = {arguments.markdown: document(whole), arguments.json_file: json.dumps(whole, indent=1) + "\n"}
        for file, text in written.items():
            if file is not None and (problem := _write(file, text)):
                return _refuse(problem)
    return 0 if known_throughout(whole) else 1


def _check_one(name: str, screen) -> Report:
    with screen.progress(name) as on_case:
        try:
            subject = open_subject(name, timeout=_TIMEOUT)
        except TargetError as error:
            return Report(name, problem=str(error))
        try:
            return check(subject, on_case=on_case)
        finally:
            subject.close()


def _write(file: Path, text: str) -> str:
    """Write a file; return what went wrong, or nothing."""
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        return f"{file}: {error.strerror}"
    return ""


def _refuse(sentence: str) -> int:
    print(f"npl-lora matrix: {sentence}", file=sys.stderr)
    return 2
