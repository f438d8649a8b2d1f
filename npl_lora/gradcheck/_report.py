"""The result of a check, for programs (ok, results, faults) and for people (str)."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class InputResult:
    """The verdict on the gradient of one input.

    error: |got - expected| of the worst element, in units of the scale; None when nothing was compared.
    index: the place of that element in the input, or (k,) for the k-th random direction.
    expected, got: the two numbers at that place.
    """

    name: str
    ok: bool
    error: float | None = None
    index: tuple[int, ...] | None = None
    expected: Any = None
    got: Any = None
    note: str = ""


@dataclass(frozen=True)
class GradcheckReport:
    """The verdicts on all inputs. It is true when everything is right.

    faults: what is wrong but belongs to no single input.
    remarks: what the reader should know even when the verdict is right.
    """

    op: str
    method: str
    results: tuple[InputResult, ...]
    faults: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return bool(self.results) and not self.faults and all(result.ok for result in self.results)

    def __bool__(self) -> bool:
        return self.ok

    def __getitem__(self, name: str) -> InputResult:
        """The verdict on the input of that name. Raises KeyError."""
        for result in self.results:
            if result.name == name:
                return result
        raise KeyError(name)

    def raise_if_failed(self) -> None:
        """Raises AssertionError with the table as its text."""
        if not self.ok:
            raise AssertionError(str(self))

    def __str__(self) -> str:
        lines = [f"gradcheck of {self.op} by {self.method}: {'ok' if self.ok else 'FAILED'}"]
        rows = [
            ("input", "ok", "error", "at", "expected", "got", ""),
            *(_row(result) for result in self.results),
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            lines.append(f"  {cells}".rstrip())
        lines += [f"  fault: {fault}" for fault in self.faults]
        lines += [f"  {remark}" for remark in self.remarks]
        return "\n".join(lines)


def _row(result: InputResult) -> tuple[str, ...]:
    error = "" if result.error is None else f"{result.error:.1e}"
    index = "" if result.index is None else f"[{', '.join(map(str, result.index))}]"
    ok = "yes" if result.ok else "NO"
    return result.name, ok, error, index, format_number(result.expected), format_number(result.got), result.note


def format_number(value: Any) -> str:
    """Short enough for a table, with digits enough to show a difference of 1e-9. Large integers show their ends."""
    if value is None:
        return ""
    if isinstance(value, int):
        text = str(value)
        return text if len(text) <= 20 else f"{text[:8]}...{text[-6:]}"
    return f"{value:.10g}"
