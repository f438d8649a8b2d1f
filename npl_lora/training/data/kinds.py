"""What a file holds, by its name and its first bytes. A file that is something else is refused, never read as text."""

from pathlib import Path
from typing import Literal

from .objects import begins_with_object
from .rows import DataError

Kind = Literal["text", "objects", "table"]

_ENDINGS: dict[str, Kind] = {
    **dict.fromkeys((".txt", ".md"), "text"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "objects"),
    **dict.fromkeys((".csv", ".tsv"), "table"),
}


def kind_by_name(path: Path, as_text: bool = False) -> Kind:
    """What the end of the name says, without .bz2. as_text: one text, whatever the name says. Raises DataError."""
    ending = _ending(path)
    if as_text:
        return "text"
    if ending not in _ENDINGS:
        named = f"its name ends in {ending}" if ending else "its name has no ending"
        raise DataError(f"{path}: {named}, expected one of {', '.join(_ENDINGS)}; --text reads any file as one text")
    return _ENDINGS[ending]


def _ending(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".bz2")).suffix


def check_content(path: Path, content: str, kind: Kind, columns: tuple[str, str]) -> None:
    """Raises DataError if a text or a table begins as something else does. columns: those of a table."""
    if kind != "objects" and begins_with_object(content):
        raise DataError(f"{path} begins with an object in JSON: name it .jsonl{_OR_TEXT[kind]}")
    begin = content[:100].lstrip().lower()
    if kind == "text" and (markup := next((m for m in _MARKUP if begin.startswith(m)), None)):
        raise DataError(f"{path} begins as {_MARKUP[markup]} does: take the text out{_OR_TEXT[kind]}")
    head = content[:1000].split("\n", 1)[0].strip()
    if kind == "text" and any({*columns} <= {name.strip(' "') for name in head.split(s)} for s in ",;\t"):
        raise DataError(f"{path} begins with columns named {' and '.join(columns)}: name it .csv{_OR_TEXT[kind]}")


_MARKUP = {"<!doctype html": "HTML", "<html": "HTML", "<?xml": "XML", "{\\rtf": "a document in RTF"}
_OR_TEXT = {"text": ", or read it as one text with --text", "table": ""}
