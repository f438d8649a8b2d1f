"""Write the catalogue as a page in Markdown:

python -m npl_lora.oracle.faults.page > npl_lora/oracle/FAULTS.md
"""

from . import FAULTS
from .fault import Fault
from .kinds import KINDS, by_kind

_HEAD = """\
# The catalogue of faults

Mistakes that LoRA implementations make, and the training and serving code around them. Most were seen in public issue
threads or in the sources of libraries; the others are easy to make by hand. Each is a small wrong variant of the
definition, which the tests put into every contract where it can show. `npl-lora check` names a fault only if it
reproduces every answer, within rounding. Those of kind U are no variants of a formula: they are found by what a layer
is asked besides the contracts, in the row *layer*. `npl-lora faults S5` explains one in the terminal.

This page is generated; edit the entries in [faults](faults), then run
`python -m npl_lora.oracle.faults.page > npl_lora/oracle/FAULTS.md`.

Notation: `o` is the elementwise product and `^T` the transpose. A layer L computes y = x W^T + s (x A^T) B^T for N
tokens; dy, dx, dA and dB are gradients. `mask` is dropout's, with entries 0 and 1 / (1 - p). In DoRA V = W + s B A, n
holds the lengths of V's rows and m the magnitudes. In attention H is the number of heads, G that of key/value heads, D
the head size, S the scores, and R the rotation of rope. K is the number of micro-batches; b1, b2 and eps are Adam's. In
a batch of rows with adapters of their own, ids_n is the adapter of row n, K the number of adapters, and R the rank that
they are padded to; rows and adapters are counted from 1.
"""


def page() -> str:
    """The whole page: the letters, then a table for each kind."""
    kinds = "\n".join(f"| {kind.letter} | {kind.name} | {kind.says} |" for kind in KINDS.values())
    letters = f"The first letter of an id is its kind:\n\n| letter | kind | what goes wrong |\n|---|---|---|\n{kinds}\n"
    sections = [f"## {kind.letter}: {kind.name}\n\n{_table(faults)}" for kind, faults in by_kind(FAULTS).items()]
    return "\n".join((_HEAD, letters, *sections))


def _table(faults: list[Fault]) -> str:
    header = "| id | fault | wrong | right | hidden when | seen in |\n|---|---|---|---|---|---|\n"
    return header + "".join(_row(fault) for fault in faults)


def _row(fault: Fault) -> str:
    formulas = (f"`{formula}`" for formula in (fault.wrong, fault.right))
    cells = (fault.name, fault.says, *formulas, fault.hidden_when, fault.seen_in)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


if __name__ == "__main__":
    print(page(), end="")
