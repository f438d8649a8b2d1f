"""The objects of a JSON file, each with the line where it begins: one after another, or in one array.

One object a line is JSON Lines. An object may also spread over lines. What is no JSON is named by line and column.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...support.quoting import quote_name
from .rows import DataError

_BLANK = re.compile(r"[ \t\r\n]*")


def read_objects(path: Path, content: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """("FILE, line 3", object) for each object. Raises DataError."""
    reader = _Reader(path, content)
    if reader.peek() != "[":
        while reader.peek():
            yield reader.object()
        return
    reader.skip("[")
    if reader.peek() != "]":
        yield reader.object()
    while reader.peek() != "]":
        reader.expect(",", "a comma or the end of the array")
        yield reader.object()
    reader.skip("]")
    if reader.peek():
        reader.fail(reader.at, "there is more after the array")


def begins_with_object(content: str) -> bool:
    """Whether a text begins with an object in JSON, or with an array of one."""
    begin = _end_of_blank(content, 0)
    if content[begin : begin + 1] == "[":
        begin = _end_of_blank(content, begin + 1)
    if content[begin : begin + 1] != "{":
        return False
    try:
        json.JSONDecoder().raw_decode(content, begin)
    except (ValueError, RecursionError):
        return False
    return True


def _end_of_blank(content: str, at: int) -> int:
    found = _BLANK.match(content, at)
    return at if found is None else found.end()


class _TwiceError(ValueError):
    """An object has a name twice: readers differ in which one they take."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return found


class _Reader:
    """A position in the text of a file, and its line."""

    def __init__(self, path: Path, content: str) -> None:
        self.path, self.content, self.at = path, content, 0
        self._line, self._counted = 1, 0
        self._decoder = json.JSONDecoder(object_pairs_hook=_unique)

    @property
    def line(self) -> int:
        self._line += self.content.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    def peek(self) -> str:
        """The next character that is not blank; "" at the end."""
        self.at = _end_of_blank(self.content, self.at)
        return self.content[self.at : self.at + 1]

    def skip(self, character: str) -> None:
        self.at += len(character)

    def expect(self, character: str, what: str) -> None:
        if self.peek() != character:
            self.fail(self.at, f"expected {what}")
        self.skip(character)

    def object(self) -> tuple[str, dict[str, Any]]:
        """The next value, which must be an object, and where it begins."""
        self.peek()
        begin, where = self.at, f"{self.path}, line {self.line}"
        try:
            found, self.at = self._decoder.raw_decode(self.content, begin)
        except json.JSONDecodeError as error:
            self.fail(error.pos, f"{error.msg[:1].lower()}{error.msg[1:]}", begin)
        except _TwiceError as error:
            raise DataError(f"{where} has the name {quote_name(str(error))} twice in one object") from None
        except RecursionError:
            raise DataError(f"{where} has brackets in brackets, too many to read") from None
        except ValueError:
            raise DataError(f"{where} has a number with too many digits to read") from None
        if not isinstance(found, dict):
            raise DataError(f"{where} is {type(found).__name__} in JSON, expected an object")
        return where, found

    def fail(self, at: int, problem: str, begin: int | None = None) -> None:
        """Raise DataError for the character at this place. begin: of the value that was read."""
        line = self.content.count("\n", 0, at) + 1
        column = at - (self.content.rfind("\n", 0, at) + 1) + 1
        inside = "" if begin is None or line == self.line else f", in what begins at line {self.line}"
        if self.content[at : at + 1] == "," and begin == at:
            problem = "a comma between objects, which belongs into an array: [{...}, {...}]"
        raise DataError(f"{self.path}, line {line}, column {column}: not JSON: {problem}{inside}")
