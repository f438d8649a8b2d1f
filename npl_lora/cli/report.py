"""What a person sees: progress while a check runs, and a table at its end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..oracle import CaseReport, ContractReport, Report

_STYLE = {"pass": "green", "fail": "bold red", "absent": "dim", "error": "bold red"}


class Screen:
    """The terminal. Progress goes to standard error, the report to standard output."""

    def __init__(self) -> None:
        self._out = Console(highlight=False)
        self._progress = Console(stderr=True)

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
        table = Table(title=f"[bold]{escape(report.target)}[/]  {verdict}", title_justify="left", title_style="")
        table.add_column("contract", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        table.add_column("cases", justify="right", no_wrap=True)
        table.add_column("worst: error / allowed", no_wrap=True)
        table.add_column("what went wrong", overflow="fold")
        for contract in report.contracts:
            table.add_row(*_row(contract))
        self._out.print(table)

    def not_installed(self, sentences: list[str]) -> None:
        """Shipped subjects that were not checked, and why."""
        for sentence in sentences:
            self._out.print(f"[dim]not checked:[/] {escape(sentence)}")


def _row(contract: ContractReport) -> tuple[str, str, str, str, str]:
    verdict = contract.verdict
    passed = sum(case.verdict == "pass" for case in contract.cases)
    asked = sum(case.verdict != "absent" for case in contract.cases)
    cases = f"{passed} of {asked}" if asked else "-"
    return contract.contract, f"[{_STYLE[verdict]}]{verdict}[/]", cases, _worst(contract), escape(_what(contract))


def _worst(contract: ContractReport) -> str:
    """The output that came closest to what is allowed, or went furthest beyond it."""
    worst, text = -1.0, ""
    for case in contract.cases:
        for name, output in case.outputs.items():
            if output.error is None or output.allowed is None:
                continue
            ratio = output.error / output.allowed if output.allowed else (float("inf") if output.error else 0.0)
            if ratio > worst:
                worst, text = ratio, f"{name}  {output.error:.1e} / {output.allowed:.1e}  {case.dtype}"
    return text


def _what(contract: ContractReport) -> str:
    """One line: the first failure and how many more there are; else what there is to say of absent and proved cases."""
    failed = [case for case in contract.cases if case.verdict == "fail"]
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        return f"{_short(failed[0])}{more}"
    absent = [case for case in contract.cases if case.verdict == "absent"]
    if absent:
        return f"{len(absent)} not supported: {absent[0].message}"
    return next((case.message for case in contract.cases if case.message), "")


def _short(case: CaseReport) -> str:
    _, name, dtype = case.id.split("/")
    return f"{name}, {dtype}: {case.message}"
