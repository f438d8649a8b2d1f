"""What a person sees of a judged dump: progress while it runs, and a row for everything that was judged."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..oracle import CaseReport, Report
from ..oracle.tolerance.judge import OutputVerdict
from .report import _STYLE


class Screen:
    """The terminal. Progress goes to standard error, the report to standard output."""

    def __init__(self) -> None:
        self._out = Console(highlight=False)
        self._progress = Console(stderr=True)

    @contextmanager
    def progress(self, target: str) -> Iterator[Callable[[str, int, int], None]]:
        """A bar for one dump, gone when it is done; gives the function to call before each block of work."""
        columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
        with Progress(*columns, console=self._progress, transient=True) as bars:
            task = bars.add_task(f"{escape(target)}: opening", total=None)

            def on_progress(what: str, done: int, total: int) -> None:
                bars.update(task, description=f"{escape(target)}: {what}", completed=done, total=total)

            yield on_progress

    def show(self, report: Report) -> None:
        """One dump: a row for each thing judged, what is wrong, and what could not be seen."""
        head = f"[bold]{escape(report.target)}[/]  [{_STYLE[report.verdict]}]{report.verdict}[/]"
        if report.problem:
            self._out.print(f"{head}  {escape(report.problem)}", soft_wrap=True)
        for contract in report.contracts:
            for case in contract.cases:
                self._show_case(f"{head}  {contract.contract}, {case.dtype}", case, contract.diagnosis.says)

    def _show_case(self, head: str, case: CaseReport, says: str) -> None:
        table = Table(title=head, title_justify="left", title_style="", box=SIMPLE)
        for header in ("judged", "verdict"):
            table.add_column(header, no_wrap=True)
        for header in ("error", "allowed"):
            table.add_column(header, no_wrap=True, justify="right")
        for name, output in case.outputs.items():
            table.add_row(name, f"[{_STYLE[output.verdict]}]{output.verdict}[/]", *_numbers(output))
        self._out.print(table if case.outputs else head)
        for name, output in case.outputs.items():
            if output.note and output.verdict == "pass":
                self._out.print(f"[dim]{name}:[/] {escape(output.note)}", soft_wrap=True)
        for line in (says, case.message):
            if line:
                self._out.print(escape(line), soft_wrap=True)
        self._out.print()


def _numbers(output: OutputVerdict) -> list[str]:
    return ["" if value is None else f"{value:.1e}" for value in (output.error, output.allowed)]
