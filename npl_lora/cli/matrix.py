"""npl-lora matrix: check every shipped library that is installed, and write the table of what each does."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..oracle import TargetError, check, open_subject
from ..oracle.libraries.matrix import column, document, known_throughout, matrix, remarks, table
from ..oracle.libraries.record import read_record, update_record
from ..oracle.libraries.table import LIBRARIES
from ..oracle.report import Report
from ..support.ranks import Ranks, join_ranks
from . import _arguments
from ._errors import CommandError, command_errors, end_together
from ._output import write_text

if TYPE_CHECKING:
    from ._screen import Screen

_TIMEOUT = 300.0  # seconds for each case: a cold compiler is slow

SUMMARY = "Check every installed LoRA library, and print what each does."

_DESCRIPTION = """\
Asks every library every case of every contract that it has, and prints a table
in Markdown. A cell holds a word, how many of the cases asked passed, and how
many the library does not support:
  pass        everything that it was asked is right
  convention  it follows another definition, explained below the table
  fault       it is wrong, as explained below the table
  fail        it is wrong, and that is not known yet

With a NAME only these libraries are asked. The file of --json keeps its other
columns then."""

_EXAMPLES = """\
npl-lora matrix
npl-lora matrix loralib peft --json conformance.json
npl-lora matrix --markdown conformance.md --json conformance.json
mpiexec -n 4 npl-lora matrix"""

_EXIT_STATUS = """\
0  every failure is a known one
1  some failures are not known
2  nothing could be checked"""


def add_command(commands: _arguments.Commands) -> None:
    parser = _arguments.add_parser(
        commands, "matrix", SUMMARY, _DESCRIPTION, examples=_EXAMPLES, exit_status=_EXIT_STATUS
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"these libraries only (default: all); of {', '.join(LIBRARIES)}"
    )
    _arguments.add_file(parser, "--markdown", "also write the table and an example of each reason to this file")
    _arguments.add_json(parser, "the table and its reasons")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check the libraries, print the table, write the files, and return the exit status."""
    ranks = join_ranks()
    with end_together(ranks):
        return _run(arguments, ranks)


def _run(arguments: argparse.Namespace, ranks: Ranks) -> int:
    """Each library is checked by one rank. Rank 0 prints and writes; every rank returns the same status."""
    from ._screen import Screen

    screen = Screen(quiet=ranks.rank > 0)
    obstacles = {name: LIBRARIES[name].obstacle() for name in _names(arguments)}
    installed = [name for name, sentence in obstacles.items() if not sentence]
    if arguments.names and len(installed) < len(obstacles):
        raise CommandError("; ".join(filter(None, obstacles.values())))
    record = _record(arguments, installed)
    reports = dict(zip(installed, ranks.each(lambda name: _check_one(name, screen), installed), strict=True))
    for report in reports.values():
        if report.problem:
            screen.show(report)
    columns = {name: column(report, LIBRARIES[name]) for name, report in reports.items() if not report.problem}
    screen.print_not_checked([sentence for sentence in obstacles.values() if sentence])
    if not columns:
        raise CommandError("no library could be checked")
    content = matrix(columns)
    if ranks.rank == 0:
        print(table(content))
        _write(arguments, update_record(record, content, LIBRARIES) if record else content)
    for name in columns:
        screen.print_sentences(remarks(reports[name], LIBRARIES[name]))
    return 0 if known_throughout(content) else 1


def _names(arguments: argparse.Namespace) -> list[str]:
    """The libraries that were asked for, in the table's order."""
    if unknown := [name for name in arguments.names if name not in LIBRARIES]:
        raise CommandError(f"{', '.join(map(repr, unknown))} is not one of {', '.join(LIBRARIES)}")
    return [name for name in LIBRARIES if not arguments.names or name in arguments.names]


def _record(arguments: argparse.Namespace, installed: list[str]) -> dict[str, Any] | None:
    """What stands in the file of --json. A file with columns that cannot be made here is not written anew."""
    path: Path | None = arguments.json_file
    if path is None or not path.exists():
        return None
    with command_errors(path):
        record = read_record(path)
    lost = [name for name in record["libraries"] if name not in installed]
    if lost and not arguments.names:
        raise CommandError(
            f"{path} has columns that cannot be made here ({', '.join(lost)}): name the libraries to check, and the"
            " other columns stay; or give another file"
        )
    return record


def _write(arguments: argparse.Namespace, content: dict[str, Any]) -> None:
    if arguments.markdown_file is not None:
        write_text(arguments.markdown_file, document(content))
    if arguments.json_file is not None:
        write_text(arguments.json_file, json.dumps(content, indent=1) + "\n")


def _check_one(name: str, screen: "Screen") -> Report:
    screen.note_without_bar(f"checking {name}")
    with screen.case_progress(name) as on_case:
        try:
            subject = open_subject(name, timeout=_TIMEOUT)
        except TargetError as error:
            return Report(name, problem=str(error))
        try:
            return check(subject, on_case=on_case)
        finally:
            subject.close()
