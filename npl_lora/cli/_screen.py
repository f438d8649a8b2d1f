"""What a person sees: progress on standard error, and reports on standard output.

In a terminal, sentences wrap at its width, with a hanging indent. In a file or a pipe nothing wraps: one line a
sentence, so that grep finds it whole.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from ..oracle import CaseReport, ContractReport, Report
from ..oracle.tolerance.judge import OutputVerdict
from ..support.extras import require

require("rich", "cli", "the command line")  # says how to install it, where the imports below would not

from rich.box import SIMPLE  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.markup import escape  # noqa: E402
from rich.progress import (  # noqa: E402
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table  # noqa: E402
from rich.text import Text  # noqa: E402

if TYPE_CHECKING:
    from ..training.data import Piece

_STYLE = {
    "pass": "green",
    "fail": "bold red",
    "absent": "dim",
    "expected": "yellow",
    "convention": "yellow",
    "error": "bold red",
}
_NUMERIC = ("cases", "error", "allowed")  # columns
_INDENT = 2  # of the second and further lines of a sentence
_UNLIMITED = 100_000  # columns, where nothing wraps

OnProgress = Callable[[str, int, int], None]  # (what is being done, how much is done, how much there is)
OnCase = Callable[[str, str, int, int], None]  # the same, with the target's name first


class Screen:
    """The terminal. quiet: show nothing at all. out: where reports go; standard output by default."""

    def __init__(self, quiet: bool = False, out: TextIO | None = None) -> None:
        self._out = _console(out or sys.stdout, quiet)
        self._err = _console(sys.stderr, quiet)

    @property
    def quiet(self) -> bool:
        return self._out.quiet

    @contextmanager
    def progress(self, target: str) -> Iterator[OnProgress]:
        """Show a bar until the block ends. Yields the function to call before each piece of work."""
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        hidden = not self._err.is_terminal  # there, even a bar that is gone leaves an empty line
        with Progress(*columns, console=self._err, transient=True, disable=hidden) as bars:
            task = bars.add_task(f"{escape(target)}: starting", total=None)

            def on_progress(what: str, done: int, total: int) -> None:
                bars.update(task, description=f"{escape(target)}: {escape(what)}", completed=done, total=total)

            yield on_progress

    @contextmanager
    def case_progress(self, target: str) -> Iterator[OnCase]:
        """The same for `oracle.check`, which names the target too."""
        with self.progress(target) as on_progress:
            yield lambda _, case, done, total: on_progress(case, done, total)

    @contextmanager
    def step_progress(self, what: str, done: int, total: int) -> Iterator[Callable[[int, str], None]]:
        """A bar that stays and estimates the time left. Yields the function to call after each step, which may take
        minutes, with the number of steps taken and a few figures."""
        columns = "steps", BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn()
        with Progress(*columns, console=self._err, speed_estimate_period=3600) as bars:
            task = bars.add_task(what, total=total, completed=done)
            yield lambda step, figures: bars.update(task, completed=step, description=escape(figures))

    def note(self, sentence: str) -> None:
        """A line on standard error, above the bar if there is one."""
        _print(self._err, Text(sentence))

    def note_without_bar(self, sentence: str) -> None:
        """The same, where no bar can be seen: in a file or a pipe."""
        if not self._err.is_terminal:
            self.note(sentence)

    def print_sentences(self, sentences: list[str]) -> None:
        """Plain lines on standard output."""
        for sentence in sentences:
            _print(self._out, Text(sentence))

    def print_rows(self, rows: Sequence[tuple[str, Sequence["Piece"]]], note: bool = False) -> None:
        """Rows of data, each with a heading: the texts of its pieces with their tokens, what is learned in colour.
        note: on standard error."""
        console = self._err if note else self._out
        for heading, pieces in rows:
            table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
            table.add_column(no_wrap=True)
            table.add_column(overflow="fold")
            table.add_column(overflow="fold")
            for piece in pieces:
                style = "green" if piece.is_learned else "dim"
                mark = "learned" if piece.is_learned else "shown"
                table.add_row(f"  {mark}", Text(_shortened(piece.text)), Text(_few(piece.tokens)), style=style)
            _print(console, Text(heading))
            console.print(table)

    def print_not_checked(self, sentences: list[str]) -> None:
        """Why something was not checked."""
        for sentence in sentences:
            _print(self._out, _labelled("not checked", "dim", sentence))

    def show(self, report: Report) -> None:
        """One target: its verdict, what is wrong, the table, and remarks on what is not wrong."""
        if report.problem:
            _print(self._out, Text.assemble(_head(report), "  ", report.problem))
            return
        _print(self._out, _head(report))
        for sentence in report.found:
            _print(self._out, _labelled("found", "dim", sentence))
        if report.convention:
            _print(self._out, _labelled("convention", _STYLE["convention"], report.convention))
        for contract in report.contracts:
            if contract.verdict == "fail":
                _print(self._out, _labelled(contract.contract, _STYLE["fail"], _failure(contract)))
        for sentence in report.unexpected:
            _print(self._out, _labelled("unexpected", _STYLE["fail"], sentence))
        table = _table("contract", "verdict", "cases", "worst output", "error", "allowed")
        for contract in report.contracts:
            table.add_row(*_row(contract))
        self._out.print(table)
        for contract in report.contracts:
            for remark in _remarks(contract):
                _print(self._out, _labelled(contract.contract, _STYLE[contract.verdict], remark))
        self._out.print()

    def show_dump(self, report: Report) -> None:
        """One dump: its verdict, what is wrong, a row for each thing judged, and what could not be judged."""
        if report.problem:
            _print(self._out, Text.assemble(_head(report), "  ", report.problem))
        for contract in report.contracts:
            for case in contract.cases:
                head = Text.assemble(_head(report), f"  {contract.contract}, {case.dtype}")
                self._show_case(head, case, contract.diagnosis.says)

    def _show_case(self, head: Text, case: CaseReport, diagnosis: str) -> None:
        _print(self._out, head)
        sentences = [Text(sentence) for sentence in (diagnosis, case.message) if sentence]
        table = _table("judged", "verdict", "error", "allowed")
        for name, output in case.outputs.items():
            table.add_row(name, _verdict(output.verdict), *_numbers(output))
        remarks = [(n, o.note) for n, o in case.outputs.items() if o.verdict == "pass" and o.note]
        for sentence in sentences if case.verdict == "fail" else ():
            _print(self._out, sentence)
        if case.outputs:
            self._out.print(table)
        for name, note in remarks:
            _print(self._out, _labelled(name, "dim", note))
        for sentence in sentences if case.verdict != "fail" else ():
            _print(self._out, sentence)
        self._out.print()


def _console(stream: TextIO, quiet: bool) -> Console:
    width = None if stream.isatty() else _UNLIMITED
    return Console(file=stream, quiet=quiet, highlight=False, width=width)


def _print(console: Console, text: Text) -> None:
    """A sentence, wrapped at the terminal's width."""
    lines = text.wrap(console, max(console.width - _INDENT, 20))
    for line in lines:
        line.rstrip()
    console.print(Text("\n" + _INDENT * " ").join(lines), soft_wrap=True)


def _head(report: Report) -> Text:
    return Text.assemble((report.target, "bold"), "  ", (report.verdict_in_words, _STYLE[report.verdict]))


def _verdict(verdict: str) -> Text:
    return Text(verdict, _STYLE[verdict])


def _labelled(label: str, style: str, sentence: str) -> Text:
    return Text.assemble((label, style), ": ", sentence)


def _table(*names: str) -> Table:
    """An empty table with these columns. In a narrow terminal the worst output's name wraps, and nothing else."""
    table = Table(box=SIMPLE)
    for name in names:
        table.add_column(
            name, justify="right" if name in _NUMERIC else "left", no_wrap=name != "worst output", overflow="fold"
        )
    return table


def _row(contract: ContractReport) -> tuple[str | Text, ...]:
    passed = sum(case.verdict == "pass" for case in contract.cases)
    asked = sum(case.verdict != "absent" for case in contract.cases)
    cases = f"{passed}/{asked}" if asked else "-"
    return contract.contract, _verdict(contract.verdict), cases, *_worst(contract)


def _worst(contract: ContractReport) -> tuple[str, str, str]:
    """The output that is furthest off, with its error and what is allowed. Of failing outputs that is the one with the
    largest error, or one that has no error because it is missing or not finite; of passing ones, the one that comes
    closest to what is allowed."""
    outputs = [(o, f"{name}, {case.dtype}") for case in contract.cases for name, o in case.outputs.items()]
    wrong = [(o, name) for o, name in outputs if o.verdict == "fail"]
    comparable = [(o, name) for o, name in outputs if o.error is not None and o.allowed is not None]
    if wrong:
        worst, name = max(wrong, key=lambda one: float("inf") if one[0].error is None else one[0].error)
    elif comparable:
        worst, name = max(comparable, key=lambda one: _ratio(one[0]))
    else:
        return "", "", ""
    return name, *_numbers(worst)


def _ratio(output: OutputVerdict) -> float:
    assert output.error is not None
    return output.error / output.allowed if output.allowed else 0.0


def _numbers(output: OutputVerdict) -> tuple[str, str]:
    error, allowed = ("-" if value is None else f"{value:.1e}" for value in (output.error, output.allowed))
    return error, allowed


def _shortened(text: str, length: int = 300) -> str:
    """A text on one line, without its middle if it is long."""
    text = text.replace("\n", "⏎").replace("\t", "→")
    return text if len(text) <= length else f"{text[: 2 * length // 3]} … {text[-length // 3 :]}"


def _few(tokens: Sequence[int], count: int = 12) -> str:
    """Tokens, without the middle ones if they are many."""
    words = [str(token) for token in tokens]
    return " ".join(words if len(words) <= count else [*words[: count - 3], "…", *words[-2:]])


def _failure(contract: ContractReport) -> str:
    """The diagnosis; where it names no fault, also the first failing case and how many more there are. Where some cases
    pass, how many of each dtype."""
    sentences = [contract.diagnosis.says]
    if not contract.diagnosis.ids and contract.contract != "layer":  # whose diagnosis has all of its sentences
        failed = [case for case in contract.cases if case.verdict == "fail"]
        more = f" (and {len(failed) - 1} more cases)" if len(failed) > 1 else ""
        end = "." if contract.counted else ""
        sentences.append(f"In {_first(failed)}{more}{end}")
    return " ".join(filter(None, (*sentences, contract.counted)))


def _remarks(contract: ContractReport) -> list[str]:
    """What there is to say of cases that do not fail: expected failures and absent cases; else, if none fails, what is
    said of a proved one."""
    expected, absent = ([case for case in contract.cases if case.verdict == v] for v in ("expected", "absent"))
    remarks = [f"{len(expected)} wrong as expected: {_first(expected)}"] if expected else []
    remarks += [f"{len(absent)} not supported: {_reasons(absent)}"] if absent else []
    if remarks or contract.verdict == "fail":
        return remarks
    return [case.message for case in contract.cases if case.message][:1]


def _reasons(absent: list[CaseReport]) -> str:
    """Why cases are not supported: the one reason, or each with its count, the most frequent first."""
    counts = Counter(case.message for case in absent).most_common()
    return counts[0][0] if len(counts) == 1 else "; ".join(f"{message} ({count})" for message, count in counts)


def _first(cases: list[CaseReport]) -> str:
    """The name, dtype and message of the first case."""
    _, name, dtype = cases[0].id.split("/")
    return f"{name}, {dtype}: {cases[0].message}"
