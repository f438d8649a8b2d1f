"""npl-lora check: ask an implementation every case, judge the answers, and report."""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from ..oracle import CONTRACTS, Report, TargetError, check, open_subject, overall
from ..oracle.deviations import excuse
from ..oracle.dtypes import askable, missing
from ..oracle.page import page
from ..oracle.power import Counts, false_alarms, misses, summary
from ..oracle.subjects import Subject
from ..oracle.subjects.command import CommandSubject
from ..oracle.subjects.shipped import SHIPPED, SLOW, default_targets, layers_of, obstacles
from ..support.ranks import Ranks, join_ranks
from . import _arguments
from ._errors import CommandError, end_together
from ._output import EXIT_STATUS, reports_as_json, write_text

if TYPE_CHECKING:
    from ._screen import OnCase, Screen

SUMMARY = "Check an implementation of LoRA against the definition."

_DESCRIPTION = f"""\
Asks the implementation every case of every contract that it has, judges each
answer, and says what is wrong. An error is in units of the output's size: the
same expression evaluated with absolute values.

TARGET is one of
  mine.py                     every function in the file that is named like a
                              contract; without one, every LoRA layer in it
  mine.py:LoRALinear          a layer as it was written (torch.nn.Module), or a
                              function that builds one
  mine.py:f                   one function; its name is the contract, unless
                              --contract gives it
  package.module:attribute    importable code: a module, class, object or
                              function
  {", ".join(SHIPPED)}
                              a subject that ships with npl-lora
Without a target: self, and every shipped subject whose library is installed
(but {", ".join(SLOW)} only when it is named: it takes minutes)."""

_EXAMPLES = """\
npl-lora check mine.py
npl-lora check mine.py:LoRALinear
npl-lora check mine.py:f --contract lora_linear --dtype float32,bfloat16
npl-lora check peft --html report.html
npl-lora check --exec './mine {case} {result}' --contract lora_linear
npl-lora check engine.py --forward
npl-lora check --power 20000"""

_EXIT_STATUS = """\
0  everything that was asked is right, if by another scale than alpha / r
1  something is wrong
2  nothing could be checked"""


def add_command(commands: _arguments.Commands) -> None:
    parser = _arguments.add_parser(
        commands, "check", SUMMARY, _DESCRIPTION, examples=_EXAMPLES, exit_status=_EXIT_STATUS
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="what to check, see above")
    parser.add_argument(
        "--exec",
        metavar="COMMAND",
        dest="command",
        help="check a program instead of a TARGET: './mine {case} {result}' is run for each case, and needs --contract"
        " (default: none)",
    )
    _arguments.add_contract(parser)
    _arguments.add_dtypes(parser)
    _arguments.add_precision(parser)
    _arguments.add_forward(parser)
    parser.add_argument(
        "--timeout",
        type=_arguments.positive_seconds,
        default=60.0,
        metavar="SECONDS",
        help="seconds allowed for each case (default: %(default)g)",
    )
    _arguments.add_expect_fail(parser)
    parser.add_argument(
        "--strict", action="store_true", help="a layer whose scale is not alpha / r fails (default: off)"
    )
    _arguments.add_json(parser, "the report")
    _arguments.add_file(parser, "--html", "also write a page with pictures of what is wrong to this file")
    parser.add_argument(
        "--power",
        nargs="?",
        const=1000,
        type=_arguments.positive_count,
        metavar="N",
        help="measure the checker itself: judge N right answers, which must pass, and every fault of the catalogue,"
        " which must fail (N is 1000 where it is left out; default: off)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check every target in turn, print a table for each, and return the exit status."""
    from ._screen import Screen

    if arguments.power is not None:
        ranks = join_ranks()
        with end_together(ranks):
            return _measure_power(arguments, Screen(quiet=ranks.rank > 0), ranks)
    openers = _openers(arguments)
    if arguments.expect_fail is not None and len(openers) != 1:
        raise CommandError("--expect-fail is about one implementation: give one TARGET, or --exec")
    screen = Screen()
    reports = []
    for name, opener in openers:
        for checked in _check_all(name, opener, arguments, screen):
            report = excuse(checked, arguments.expect_fail or {})
            screen.show(report)
            reports.append(report)
    if not arguments.command and not arguments.targets:
        screen.print_not_checked(obstacles())
    if arguments.dtype is None:
        screen.print_not_checked(missing())
    if arguments.json_file is not None:
        write_text(arguments.json_file, reports_as_json(reports))
    if arguments.html_file is not None:
        write_text(arguments.html_file, page(reports, missing() if arguments.dtype is None else ()))
    verdict = overall(reports)
    return 1 if arguments.strict and verdict == "convention" else EXIT_STATUS[verdict]


def _measure_power(arguments: argparse.Namespace, screen: "Screen", ranks: Ranks) -> int:
    """Count the right answers that are called wrong, and the faults that are missed."""
    counts = Counts()
    with screen.progress("power") as on_progress:
        dtypes = arguments.dtype or askable()
        false_alarms(arguments.power, dtypes, counts, on_progress, ranks)
        misses(dtypes, counts, on_progress, ranks)
    screen.print_sentences(summary(counts))
    return 1 if counts.alarms or counts.misses else 0


def _openers(arguments: argparse.Namespace) -> list[tuple[str, Callable[[], Subject]]]:
    """The targets that were asked for, and for each the function that opens it."""
    contract, timeout = arguments.contract, arguments.timeout
    if arguments.command and arguments.targets:
        raise CommandError("--exec checks one program: give it or TARGET, not both")
    if arguments.command and not contract:
        raise CommandError(f"--exec needs --contract, one of {', '.join(CONTRACTS)}")
    if arguments.command:
        opener: Callable[[], Subject] = partial(CommandSubject, arguments.command, contract, timeout)
        return [(arguments.command, opener)]
    targets = arguments.targets or default_targets()
    return [(target, partial(open_subject, target, contract, timeout)) for target in targets]


def _check_all(
    name: str, opener: Callable[[], Subject], arguments: argparse.Namespace, screen: "Screen"
) -> Iterator[Report]:
    """The report on a target; for a file of layers, one on each of them."""
    with screen.case_progress(name) as on_case:
        try:
            subject = opener()
        except TargetError as error:
            yield Report(name, problem=str(error))
            return
        layers = layers_of(subject)
        if not layers:
            yield _check_one(subject, arguments, on_case)
    if layers:
        subject.close()
    for layer in layers:
        opener = partial(open_subject, layer, arguments.contract, arguments.timeout)
        yield from _check_all(layer, opener, arguments, screen)


def _check_one(subject: Subject, arguments: argparse.Namespace, on_case: "OnCase") -> Report:
    try:
        return check(
            subject,
            dtypes=arguments.dtype,
            contract=arguments.contract,
            inner=arguments.precision,
            forward_only=arguments.forward,
            on_case=on_case,
        )
    finally:
        subject.close()
