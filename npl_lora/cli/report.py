"""What a person sees: progress while a check runs, and a table at its end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..oracle import CaseReport, ContractReport, Report

_STYLE = {"pass": "green", "fail": "bold red", "absent": "dim", "expected": "yellow", "error": "bold red"}


class Screen:
    """The terminal. Progress goes to standard error, the report to standard output; nothing where it is quiet."""

    def __init__(self, quiet: bool = False) -> None:
        self._out = Console(highlight=False, quiet=quiet)
        self._progress = Console(stderr=True, quiet=quiet)

    @contextmanager
    def progress(self, target: str) -> Iterator[Callable[[str, str, int, int], None]]:
        """A bar for one target, gone when it is done; gives the function to call before each case."""
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        with Progress(*columns, console=self._progress, transient=True) as bars:
            task = bars.add_task(f"{escape(target)}: starting", total=None)

            def on_case(target: str, case: str, done: int, total: int) -> None:
                bars.update(task, description=f"{escape(target)}: {case}", completed=done, total=total)

            yield on_case

    def show(self, report: Report) -> None:
        """The table of one target."""
        verdict = f"[{_STYLE[report.verdict]}]{report.verdict}[/]"
        if report.problem:
            self._out.print(f"[bold]{escape(report.target)}[/]  {verdict}  {escape(report.problem)}")
            return
        table = Table(
            title=f"[bold]{escape(report.target)}[/]  {verdict}", title_justify="left", title_style="", box=SIMPLE
        )
        for header in ("contract", "verdict", "cases", "worst output", "error", "allowed"):
            table.add_column(
                header, no_wrap=True, justify="right" if header in ("cases", "error", "allowed") else "left"
            )
        for contract in report.contracts:
            table.add_row(*_row(contract))
        self._out.print(table)
        for contract in report.contracts:
            if what := _what(contract):
                self._out.print(f"[{_STYLE[contract.verdict]}]{contract.contract}[/]: {escape(what)}", soft_wrap=True)
        for sentence in report.unexpected:
            self._out.print(f"[{_STYLE['fail']}]unexpected[/]: {escape(sentence)}", soft_wrap=True)
        self._out.print()

    def lines(self, lines: list[str]) -> None:
        """Plain sentences."""
        for line in lines:
            self._out.print(escape(line), soft_wrap=True)

    def not_installed(self, sentences: list[str]) -> None:
        """Shipped subjects that were not checked, and why."""
        for sentence in sentences:
            self._out.print(f"[dim]not checked:[/] {escape(sentence)}")


def _row(contract: ContractReport) -> tuple[str, ...]:
    passed = sum(case.verdict == "pass" for case in contract.cases)
    asked = sum(case.verdict != "absent" for case in contract.cases)
    cases = f"{passed}/{asked}" if asked else "-"
    return contract.contract, f"[{_STYLE[contract.verdict]}]{contract.verdict}[/]", cases, *_worst(contract)


def _worst(contract: ContractReport) -> tuple[str, str, str]:
    """The output that came closest to what is allowed, or went furthest beyond it; error and allowed."""
    found = [(o, f"{name}, {c.dtype}") for c in contract.cases for name, o in c.outputs.items()]
    judged = [(o.error, o.allowed, name) for o, name in found if o.error is not None and o.allowed is not None]
    if not judged:
        return "", "", ""
    error, allowed, name = max(judged, key=lambda one: _ratio(one[0], one[1]))
    return name, f"{error:.1e}", f"{allowed:.1e}"


def _ratio(error: float, allowed: float) -> float:
    return error / allowed if allowed else (float("inf") if error else 0.0)


def _what(contract: ContractReport) -> str:
    """One line: the first failure and how many more there are; else what there is to say of absent and proved cases."""
    failed = [case for case in contract.cases if case.verdict == "fail"]
    expected = [case for case in contract.cases if case.verdict == "expected"]
    if expected and not failed:
        return f"{len(expected)} wrong as expected: {_short(expected[0])}"
    if contract.diagnosis.ids:
        return contract.diagnosis.says
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        return " ".join(filter(None, (contract.diagnosis.says, f"{_short(failed[0])}{more}")))
    absent = [case for case in contract.cases if case.verdict == "absent"]
    if absent:
        return f"{len(absent)} not supported: {absent[0].message}"
    return next((case.message for case in contract.cases if case.message), "")


def _short(case: CaseReport) -> str:
    _, name, dtype = case.id.split("/")
    return f"{name}, {dtype}: {case.message}"
