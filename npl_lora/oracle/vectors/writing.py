"""Writing the vectors: a case, its right answers, what is allowed, and what the manifest says of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...support.names import Names, as_names
from ..case import Case, widen
from ..contracts import CONTRACTS
from ..dtypes import known
from ..faults import FAULTS
from ..tolerance.judge import Right, right_answer
from ..tolerance.statistics import Distribution
from .caught import caught_by as _caught_by
from .high_precision import correctly_rounded
from .safetensors import encode

SCHEMA = "manifest.schema.json"


class VectorsError(Exception):
    """The vectors cannot be written there. One sentence."""


def write_vectors(
    folder: Path,
    *,
    contract: Names | None = None,
    dtypes: Names | None = None,
    caught_by: Callable[[Case], list[str]] = _caught_by,
    on_case: Callable[[str, str, int, int], None] | None = None,
) -> int:
    """Write every case of every contract (or of those named) in these dtypes (all that cases can be drawn in here)
    into a new or empty folder; return how many.

    caught_by(case) -> the names of the faults of the catalogue that the case shows, for the manifest's flags.
    on_case(target, case id, cases done, cases in all) is called before each case.
    Raises VectorsError where the files cannot be written, and MissingExtraError without mpmath.
    """
    dtypes, wanted = known(dtypes), CONTRACTS if contract is None else as_names(contract)
    names = [name for name in CONTRACTS if name in wanted]
    cases = [case for name in names for dtype in dtypes for case in CONTRACTS[name].cases(dtype)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise VectorsError(f"{folder} is not empty: vectors are written into a folder of their own")
        entries = []
        for done, case in enumerate(cases):
            if on_case is not None:
                on_case("vectors", case.id, done, len(cases))
            entries.append(_write(folder, case, sorted(caught_by(case))))
        _put(folder / SCHEMA, Path(__file__).with_name(SCHEMA).read_bytes())
        manifest = {"protocol": 1, "schema": SCHEMA, "vectors": entries, "notes": _notes(entries)}
        _put(folder / "manifest.json", (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())
    except OSError as error:
        raise VectorsError(f"{folder}: {error.strerror or error}") from None
    return len(cases)


def _write(folder: Path, case: Case, flags: list[str]) -> dict[str, Any]:
    """One vector's files, and its entry in the manifest."""
    answers, allowed, outputs = right(case)
    files = {"case": encode_case(case), "answers": encode(answers), "allowed": encode(allowed)}
    for kind, data in files.items():
        _put(folder / file_names(case.id)[kind], data)
    return {**described(case), "outputs": outputs, "flags": flags}


def described(case: Case) -> dict[str, Any]:
    """What the manifest says of a case."""
    entry = {"contract": case.contract, "id": case.id, "dtype": case.dtype, "config": case.config}
    return {**entry, "files": file_names(case.id)}


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def file_names(id_: str) -> dict[str, str]:
    """Where the files of a vector are, from the manifest's folder."""
    folders = {"case": "cases", "answers": "answers", "allowed": "allowed"}
    return {kind: f"{folder}/{id_}.safetensors" for kind, folder in folders.items()}


def encode_case(case: Case) -> bytes:
    """A case as the protocol has it."""
    metadata = {"protocol": "1", "contract": case.contract, "id": case.id, "dtype": case.dtype}
    return encode(case.arrays, {**metadata, "config": json.dumps(case.config, sort_keys=True)})


def right(case: Case) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, dict[str, Any]]]:
    """The right answers, how far each number may be off, and how each output is judged.

    An output that depends on what the subject draws has no answer here, nor has one that is drawn itself.
    """
    contract = CONTRACTS[case.contract]
    shown = case if contract.settle is None else contract.settle(case, {})  # one of the many things to draw
    derived = right_answer(shown, contract.answer)
    rounded = correctly_rounded(contract.answer, shown.arrays, shown.config)
    loose = _dependent(case, shown)
    answers, allowed, outputs = {}, {}, {}
    for name, one in derived.items():
        outputs[name] = {"shape": list(one.shape), **_judged(one, name in loose)}
        if isinstance(one, Right) and name not in loose:
            answers[name], allowed[name] = np.asarray(rounded[name]), coarse(one.allowed)
    return answers, allowed, outputs


def _judged(one: Right | Distribution, loose: bool) -> dict[str, Any]:
    if isinstance(one, Distribution):
        return {"judged": "by distribution", "distribution": one.kind, "spread": one.spread}
    return {"judged": "by what was drawn" if loose else "by number"}


def _dependent(case: Case, shown: Case) -> set[str]:
    """The outputs that change with what the subject draws: those that differ when all of that is zero."""
    answer, drawn = CONTRACTS[case.contract].answer, shown.arrays.keys() - case.arrays.keys()
    if not drawn:
        return set()
    one = answer(widen(shown), case.config)
    other = answer(widen(shown.with_arrays({name: 0 * shown[name] for name in drawn})), case.config)
    return {name for name in one if not np.array_equal(one[name], other[name])}


def coarse(allowed: np.ndarray) -> np.ndarray:
    """Rounded up to 6 significant bits: by at most 1/32, and to the same number whatever the last digits were.

    What is allowed is derived in float64, and the last digits of that are the machine's. A number that lies just at a
    step of 2^-6 could go either way; such numbers are common (sums of a few products of short ones), so steps are moved
    by 2^-20, to where none is likely to be. That none is, within 10^-10, is a test.
    """
    mantissa, exponent = np.frexp(np.asarray(allowed, dtype=np.float64) * (1.0 + 2.0**-20))
    return np.asarray(np.ldexp(np.ceil(mantissa * 2.0**6) * 2.0**-6, exponent))


def _notes(entries: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """What the flags mean."""
    flags = {flag for entry in entries for flag in entry["flags"]}
    return {
        fault.name: {
            "id": fault.id,
            "says": fault.says,
            "wrong": fault.wrong,
            "right": fault.right,
            "hidden": fault.hidden_when,
            "source": fault.seen_in,
        }
        for fault in FAULTS
        if fault.name in flags
    }
