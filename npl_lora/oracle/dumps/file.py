"""Opening a dump: a safetensors file whose metadata names the contract, configuration and dtype of its arrays."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...support.tensor_file import TensorFileError, json_object, open_tensors
from .. import one_line
from ..contracts import CONTRACTS
from ..tolerance.rounding import PRECISIONS

NOT_JUDGED = "not_judged.json"  # beside the dumps: {layer: why it has none}
_HEADER_LIMIT = 1 << 20  # bytes; a dump has some ten arrays
_NAMED = 8  # of the names that a sentence lists
_KEYS = ("protocol", "contract", "id", "dtype", "config")


class DumpError(TensorFileError):
    """The file is not a dump that can be judged. The message is one sentence."""


@dataclass(frozen=True)
class Dump:
    """A dump's metadata and its arrays, which are memory-mapped."""

    contract: str
    id: str
    dtype: str
    config: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(repr=False)
    note: str = ""


def open_dump(path: Path) -> Dump:
    """Open a dump. Raises TensorFileError, one sentence, if the file is anything else."""
    arrays, metadata = open_tensors(path, _HEADER_LIMIT)
    return Dump(arrays=arrays, **_metadata(metadata))


def unjudged(folder: Path) -> list[str]:
    """The sentences of capture on layers of the model that have no dump in this folder."""
    path = folder / NOT_JUDGED
    if not path.is_file():
        return []
    try:
        with path.open("rb") as file:
            sentences = json_object(file.read(_HEADER_LIMIT), NOT_JUDGED)
    except (OSError, TensorFileError) as error:
        return [f"{path}: {error}"]
    return [one_line.first_line(str(sentence)) for sentence in sentences.values()]


def _metadata(metadata: Any) -> dict[str, Any]:
    """contract, id, dtype and config, all checked, and the note that the writer of the dump may have left."""
    if not isinstance(metadata, dict) or not all(isinstance(metadata.get(key), str) for key in _KEYS):
        raise DumpError(f"has no __metadata__ with the strings {', '.join(_KEYS)}")
    if metadata["protocol"] != "1":
        raise DumpError(f"has protocol {metadata['protocol'][:20]!r}, expected '1'")
    for key, known in (("contract", CONTRACTS), ("dtype", PRECISIONS)):
        if metadata[key] not in known:
            raise DumpError(f"{key} is {metadata[key][:40]!r}, expected one of {_some(known)}")
    config = json_object(metadata["config"], "config")
    note = one_line.first_line(str(metadata.get("note", "")))
    return {"config": config, "note": note, **{key: metadata[key] for key in ("contract", "id", "dtype")}}


def _some(names: Iterable[str]) -> str:
    """The names, or the first of many."""
    first = list(names)
    return ", ".join(first[:_NAMED] + ["…"] * (len(first) > _NAMED))
