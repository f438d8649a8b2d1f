"""npl-lora faults: list the catalogue of faults, or explain one."""

import argparse
import difflib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..oracle.faults import FAULTS, Fault
from ..oracle.faults.kinds import by_kind
from ..oracle.faults.relevant import contracts_of, relevant_to
from ..support.extras import require
from . import _arguments
from ._errors import CommandError

if TYPE_CHECKING:
    from rich.table import Table


SUMMARY = "List the faults that check can name, or explain one."

_DESCRIPTION = """\
Most faults of the catalogue were seen in public issues or published code.
check names one when it reproduces every answer that it was given."""

_EXAMPLES = """\
npl-lora faults
npl-lora faults S5
npl-lora faults bias
npl-lora faults --contract lora_merge"""

_EXIT_STATUS = """\
0  the list or the explanation was printed
2  there is no such fault"""


def add_command(commands: _arguments.Commands) -> None:
    parser = _arguments.add_parser(
        commands, "faults", SUMMARY, _DESCRIPTION, examples=_EXAMPLES, exit_status=_EXIT_STATUS
    )
    parser.add_argument(
        "id",
        metavar="ID",
        nargs="?",
        help='explain this fault, "S5", or one variant, "S5/dB"; or list a kind, "S", or those that have a word',
    )
    _arguments.add_contract(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the list or the explanation, and return the exit status."""
    require("rich", "cli", "the command line")
    faults = _relevant(arguments.contract) if arguments.contract else list(FAULTS)
    if arguments.id is None:
        _list(faults)
        return 0
    if matches := [fault for fault in faults if arguments.id in (fault.id, fault.name)]:
        _explain(matches)
    elif found := [fault for fault in faults if _has(fault, arguments.id)]:
        _list(found)
    else:
        raise CommandError(_no_such(arguments.id, arguments.contract, faults))
    return 0


def _has(fault: Fault, word: str) -> bool:
    """Whether the fault is of this kind, or has this word in what is said of it."""
    text = f"{fault.says} {fault.wrong} {fault.right} {fault.hidden_when}"
    return word == fault.id[0] or (
        len(word) > 2 and re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) is not None
    )


def _relevant(contracts: list[str]) -> list[Fault]:
    """The faults that can show in one of these contracts, in the catalogue's order."""
    names = {fault.name for contract in contracts for fault in relevant_to(contract)}
    return [fault for fault in FAULTS if fault.name in names]


def _no_such(id_: str, contracts: list[str] | None, faults: list[Fault]) -> str:
    """One sentence, with the ids that come closest."""
    names = list(dict.fromkeys(name for fault in faults for name in (fault.id, fault.name)))
    near = difflib.get_close_matches(id_.upper(), names)
    place = f"the catalogue has no fault {id_!r}" + (f" that can show in {' or '.join(contracts)}" if contracts else "")
    return place + (f"; did you mean {' or '.join(near)}?" if near else "; `npl-lora faults` lists them all")


def _list(faults: list[Fault]) -> None:
    """A line for each fault, under the heading of its kind."""
    from rich.console import Console

    console = Console(highlight=False)
    width = max(len(fault.name) for fault in faults)
    for kind, group in by_kind(faults).items():
        console.print(f"{kind.letter}  {kind.name}", style="bold", markup=False)
        console.print(_grid([(fault.name, fault.says) for fault in group], width))
    console.print("npl-lora faults ID explains one of them.")


def _explain(faults: list[Fault]) -> None:
    """The kind, and for each variant what is wrong, what is right, when it hides, and where it was seen."""
    from rich.console import Console

    console = Console(highlight=False)
    ((kind, group),) = by_kind(faults).items()
    console.print(f"{kind.letter}  {kind.name}: {kind.says}", markup=False)
    for fault in group:
        console.print(f"\n{fault.name}  {fault.says}", style="bold", markup=False)
        about = {
            "wrong": fault.wrong,
            "right": fault.right,
            "hidden when": fault.hidden_when,
            "seen in": fault.seen_in,
            "can show in": ", ".join(contracts_of(fault)) or f"layer ({fault.fact})",
        }
        console.print(_grid(about.items(), width=len("hidden when")))


def _grid(rows: Iterable[tuple[str, str]], width: int) -> "Table":
    """Two columns, indented. The first has this width; the second wraps."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, min_width=width + 2)
    for label, text in rows:
        table.add_row(Text(f"  {label}"), Text(text))
    return table
