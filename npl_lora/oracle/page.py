"""The report as one self-contained HTML page: the table, and for every contract that fails the diagnosis and pictures.
The pictures show the expected values, the values received, and the errors beyond the tolerance."""

from collections.abc import Iterable
from html import escape

import numpy as np

from .faults import FAULTS
from .report import ContractReport, Observed, Report
from .tolerance.judge import Right

_LARGEST = 40  # rows and columns of a picture; larger arrays are shown in blocks, each by its largest number
_CELL = 14  # pixels

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.pass { color: #18794e; } .fail, .error { color: #c0262d; font-weight: 600; } .absent { color: #777; }
.convention, .expected { color: #8a6100; }
figure { display: inline-block; margin: .5rem 1.5rem .5rem 0; vertical-align: top; }
figcaption { font-size: 13px; color: #555; }
svg { border: 1px solid #ccc; background: #eee; }
"""


def page(reports: Iterable[Report], not_checked: Iterable[str] = ()) -> str:
    """The page, in HTML. not_checked: sentences on what was not."""
    notes = [f'<p class="absent">not checked: {escape(sentence)}</p>' for sentence in not_checked]
    body = "\n".join([*(_target(report) for report in reports), *notes])
    head = f'<meta charset="utf-8"><title>npl-lora check</title><style>{_STYLE}</style>'
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n<h1>npl-lora check</h1>\n{body}\n</body></html>\n'
    )


def _target(report: Report) -> str:
    title = f'<h2>{escape(report.target)} <span class="{report.verdict}">{report.verdict_in_words}</span></h2>'
    if report.problem:
        return f"{title}<p>{escape(report.problem)}</p>"
    sentences = [*report.found, report.convention] if report.convention else report.found
    found = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    rows = "".join(_row(contract) for contract in report.contracts)
    header = "<tr><th>contract</th><th>verdict</th><th>cases that pass</th><th>what went wrong</th></tr>"
    failures = "".join(_failure(contract) for contract in report.contracts if contract.verdict == "fail")
    return f"{title}{found}<table>{header}{rows}</table>{failures}"


def _row(contract: ContractReport) -> str:
    passed = sum(case.verdict == "pass" for case in contract.cases)
    asked = sum(case.verdict != "absent" for case in contract.cases)
    return (
        f'<tr><td>{escape(contract.contract)}</td><td class="{contract.verdict}">{contract.verdict}</td>'
        f'<td class="number">{passed}/{asked}</td><td>{escape(", ".join(contract.diagnosis.ids))}</td></tr>'
    )


def _failure(contract: ContractReport) -> str:
    pieces = [f"<h3>{escape(contract.contract)}</h3>"]
    if contract.diagnosis.says:
        pieces.append(f"<p>{escape(contract.diagnosis.says)}</p>")
    for fault in (
        fault for fault in FAULTS if fault.id in contract.diagnosis.ids and fault.says in contract.diagnosis.says
    ):
        pieces.append(f"<p>{fault.id}: hidden when {escape(fault.hidden_when)}. Seen in: {escape(fault.seen_in)}.</p>")
    failed = [case for case in contract.cases if case.verdict == "fail"]
    first = escape(f"{failed[0].id}: {failed[0].message}")
    counted = f"{contract.counted} " if contract.counted else ""
    pieces.append(f"<p>{len(failed)} of {len(contract.cases)} cases fail. {counted}First: {first}</p>")
    if contract.observed:
        pieces.append(_pictures(contract.observed[0]))
    return "".join(pieces)


def _pictures(observation: Observed) -> str:
    """Expected values, values received and errors of each wrong output of a case."""
    assert observation.outputs is not None
    colours = (
        "Blue is below zero, red above, black not finite. In the third picture, errors within the tolerance are white."
    )
    blocks = [f"<p>Numbers of {escape(observation.case.id)}. {colours}</p>"]
    for name in observation.failed:
        right, got = observation.right.get(name), observation.outputs.get(name)
        if (
            not isinstance(right, Right)
            or got is None
            or got.shape != right.shape
            or got.dtype.kind != "f"
            or not got.size
        ):
            continue
        got = got.astype(np.float64)
        error = got - right.value
        beyond = np.where(np.abs(error) <= right.allowed, 0.0, error)
        scale = _largest(right.value)
        pictures = (
            _picture(f"{name} expected", right.value, scale, right.value),
            _picture(f"{name} got", got, scale, got),
            _picture(f"{name}, got minus expected", beyond, _largest(beyond), error),
        )
        blocks.append(f"<div>{''.join(pictures)}</div>")
    return "".join(blocks)


def _largest(t: np.ndarray) -> float:
    """The largest finite magnitude, which is the scale of a picture; 1 if all are 0."""
    return float(np.max(np.abs(t[np.isfinite(t)]), initial=0.0)) or 1.0


def _picture(caption: str, values: np.ndarray, scale: float, tooltips: np.ndarray) -> str:
    """A rectangle for every number or block of numbers. tooltips: the numbers shown when the mouse is over it."""
    values, tooltips = _as_matrix(values), _as_matrix(tooltips)
    rows, columns = (np.array_split(np.arange(n), min(n, _LARGEST)) for n in values.shape)
    rectangles = []
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            block = values[np.ix_(row, column)]
            worst = np.unravel_index(np.argmax(np.abs(np.nan_to_num(block, nan=np.inf))), block.shape)
            at = (row[worst[0]], column[worst[1]])
            words = f"[{at[0]}, {at[1]}] {tooltips[at]:.6g}"
            place = f'x="{j * _CELL}" y="{i * _CELL}" width="{_CELL}" height="{_CELL}"'
            fill = f'fill="{_colour(values[at] / scale)}"'
            rectangles.append(f"<rect {place} {fill}><title>{words}</title></rect>")
    size = f'width="{len(columns) * _CELL}" height="{len(rows) * _CELL}"'
    shape = " x ".join(map(str, values.shape))
    return (
        f"<figure><svg {size}>{''.join(rectangles)}</svg><figcaption>{escape(caption)} ({shape})</figcaption></figure>"
    )


def _as_matrix(t: np.ndarray) -> np.ndarray:
    return t.reshape(-1, t.shape[-1]) if t.ndim else t.reshape(1, 1)


def _colour(share: float) -> str:
    """White at 0, red at 1 and above, blue at -1 and below, black if not finite."""
    if not np.isfinite(share):
        return "#000"
    weak = round(255 * (1 - min(abs(share), 1.0)))
    return f"rgb(255,{weak},{weak})" if share >= 0 else f"rgb({weak},{weak},255)"
