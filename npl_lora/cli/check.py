"""npl-lora check: ask an implementation every case, judge the answers, and report."""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..oracle import CONTRACTS, DTYPES, Report, TargetError, check, open_subject, overall
from ..oracle.deviations import DeviationsError, expecting, read_deviations
from ..oracle.dtypes import askable, dtype_by_name
from ..oracle.page import page
from ..oracle.power import Counts, false_alarms, misses, summary
from ..oracle.subjects import Subject
from ..oracle.subjects.command import CommandSubject
from ..oracle.subjects.shipped import SHIPPED, SLOW, default_targets, obstacles
from ..oracle.tolerance.rounding import INNER
from ..support.extras import MissingExtraError, require
from ..support.ranks import Ranks, join_ranks
from ._many import together

_EXIT = {"pass": 0, "fail": 1, "error": 2}

_DESCRIPTION = f"""\
Ask an implementation of LoRA every case of every contract that it bears, and judge its answers.

TARGET is one of
  mine.py                     every function in the file that bears a contract's name
  mine.py:f                   one function; its name is the contract, unless --contract gives it
  package.module:attribute    importable code: a module, class, object or function
  {", ".join(SHIPPED)}
                              a subject that ships with npl-lora
With no target: self, and every library of these that is installed, except {", ".join(SLOW)}, which takes minutes."""

_EPILOG = f"""\
contracts: {", ".join(CONTRACTS)}
exit status: 0 all that was asked is right, 1 something is wrong, 2 nothing could be checked"""


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "check",
        help="check an implementation",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="what to check, see above")
    parser.add_argument("--exec", metavar="COMMAND", dest="command", help="check a program: './mine {case} {result}'")
    parser.add_argument("--contract", choices=CONTRACTS, metavar="NAME", help="ask this contract only")
    parser.add_argument("--dtype", type=_dtypes, metavar="LIST", help=f"of {','.join(DTYPES)} (default: all)")
    parser.add_argument(
        "--precision", choices=INNER, help="let matrix products round what goes into them to this (default: not at all)"
    )
    parser.add_argument(
        "--power",
        nargs="?",
        const=1000,
        type=_count,
        metavar="N",
        help="check nobody, but the check: N right answers (default: 1000) and every fault of the catalogue",
    )
    parser.add_argument("--timeout", type=_seconds, default=60.0, metavar="SECONDS", help="for each case (default: 60)")
    add_expect_fail(parser)
    parser.add_argument("--json", metavar="FILE", dest="json_file", type=Path, help="write the whole report there")
    parser.add_argument("--html", metavar="FILE", dest="html_file", type=Path, help="write a page with pictures there")
    parser.set_defaults(run=run)


def add_expect_fail(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--expect-fail",
        metavar="FILE",
        type=Path,
        help="known deviations, JSON or TOML: the id of a case or a fault, and why; one that does not fail is an error",
    )


def _dtypes(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in DTYPES]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(map(repr, unknown))} is not one of {', '.join(DTYPES)}")
    return names


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of answers")
    return int(text)


def _not_askable() -> list[str]:
    """For each dtype that no case can be drawn in here, the sentence that says why."""
    sentences = []
    for name in DTYPES:
        try:
            dtype_by_name(name)
        except MissingExtraError as error:
            sentences.append(str(error))
    return sentences


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return seconds


def run(arguments: argparse.Namespace) -> int:
    """Check every target in turn, print a table for each, and return the exit status."""
    require("rich", "cli", "the command line")
    from .report import Screen

    for name in arguments.dtype or ():
        dtype_by_name(name)  # says so now if it needs an extra

    if arguments.power is not None:
        ranks = join_ranks()
        with together("check", ranks):
            return _power(arguments, Screen(quiet=ranks.rank > 0), ranks)
    if arguments.command and arguments.targets:
        return _refuse("--exec checks one program: give it or TARGET, not both")
    if arguments.command and not arguments.contract:
        return _refuse(f"--exec needs --contract, one of {', '.join(CONTRACTS)}")
    if arguments.expect_fail and len(_openers(arguments)) != 1:
        return _refuse("--expect-fail is about one implementation: give one TARGET, or --exec")
    try:
        reasons = read_deviations(arguments.expect_fail) if arguments.expect_fail else {}
    except DeviationsError as error:
        return _refuse(str(error))
    screen = Screen()
    reports = []
    for name, opened in _openers(arguments):
        report = expecting(_check_one(name, opened, arguments, screen), reasons)
        screen.show(report)
        reports.append(report)
    if not arguments.command and not arguments.targets:
        screen.not_installed(obstacles())
    if arguments.dtype is None:
        screen.not_installed(_not_askable())
    verdict = overall(reports)
    written = {
        "--json": (arguments.json_file, _as_json(reports, verdict)),
        "--html": (arguments.html_file, page(reports)),
    }
    for option, (file, text) in written.items():
        if file is not None and (problem := _write(option, file, text)):
            return _refuse(problem)
    return _EXIT[verdict]


def _power(arguments: argparse.Namespace, screen, ranks: Ranks) -> int:
    """How often a right answer is called wrong, and a wrong one right."""
    counts = Counts()
    with screen.progress("power") as on_case:
        dtypes = arguments.dtype or askable()
        false_alarms(arguments.power, dtypes, counts, partial(on_case, "power"), ranks)
        misses(dtypes, counts, partial(on_case, "power"), ranks)
    screen.lines(summary(counts))
    return 1 if counts.alarms or counts.misses else 0


def _openers(arguments: argparse.Namespace) -> list[tuple[str, Callable[[], Subject]]]:
    """The targets asked for, with what opens each."""
    contract, timeout = arguments.contract, arguments.timeout
    if arguments.command:
        opener: Callable[[], Subject] = partial(CommandSubject, arguments.command, contract, timeout)
        return [(arguments.command, opener)]
    targets = arguments.targets or default_targets()
    return [(target, partial(open_subject, target, contract, timeout)) for target in targets]


def _check_one(name: str, opened: Callable[[], Subject], arguments: argparse.Namespace, screen) -> Report:
    with screen.progress(name) as on_case:
        try:
            subject = opened()
        except TargetError as error:
            return Report(name, problem=str(error))
        try:
            return check(
                subject, dtypes=arguments.dtype, contract=arguments.contract, inner=arguments.precision, on_case=on_case
            )
        finally:
            subject.close()


def _as_json(reports: list[Report], verdict: str) -> str:
    bodies = [report.as_json() for report in reports]
    whole = bodies[0] if len(bodies) == 1 else {"protocol": 1, "verdict": verdict, "targets": bodies}
    return json.dumps(whole, indent=1, allow_nan=False) + "\n"


def _write(option: str, file: Path, text: str) -> str:
    """Write a file; return what went wrong, or nothing."""
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        return f"{option} {file}: {error.strerror}"
    return ""


def _refuse(sentence: str) -> int:
    print(f"npl-lora check: {sentence}", file=sys.stderr)
    return 2
