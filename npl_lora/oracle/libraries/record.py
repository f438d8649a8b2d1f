"""The matrix as it was written to a file, and the file's columns of some libraries replaced by new ones."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def read_record(path: Path) -> dict[str, Any]:
    """What `npl-lora matrix --json` wrote to this file. Raises ValueError if it holds anything else, and OSError."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        record = None
    if not isinstance(record, dict) or not {"versions", "libraries"} <= record.keys():
        raise ValueError(f"{path} was not written by npl-lora matrix --json: give another file")
    return record


def update_record(record: dict[str, Any], new: dict[str, Any], order: Iterable[str]) -> dict[str, Any]:
    """The record with the columns of a new matrix, in this order of libraries.

    The record's versions (npl-lora, Python, NumPy) are those of the columns that stay. Where the new columns ran on
    others, these stand in the new columns.
    """
    if record["libraries"].keys() <= new["libraries"].keys():
        return new
    others = {name: version for name, version in new["versions"].items() if record["versions"].get(name) != version}
    fresh = {name: {**column, "versions": others | column["versions"]} for name, column in new["libraries"].items()}
    columns = record["libraries"] | fresh
    names = dict.fromkeys([*(name for name in order if name in columns), *columns])
    return {**record, "libraries": {name: columns[name] for name in names}}
