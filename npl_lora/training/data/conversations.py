"""Prompts with completions, conversations and texts: the objects of a JSON file. `forms` lists the forms of a row.

Only what the model should say is learned: a completion, or what the assistant says; of a text, everything. A completion
and a text are followed by the token that ends a text. Prompt and completion are encoded separately, as when the model
answers. A conversation is rendered by the model's own template, and `answers` says where the answers are in it.

A row longer than the length loses its end. It is dropped if truncation removed every label.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...models import ChatTemplate, ModelError, Tokenizer
from ...support.quoting import quote_name
from .answers import answers, learned
from .fields import describe_unused, told_to_template
from .forms import Pair, Plain, Turns, as_text, form_of
from .objects import read_objects
from .rows import IGNORED, Data, DataError, Row, count_labels


def read(path: Path, content: str, tokenizer: Tokenizer, length: int) -> Data:
    """The rows of the file. Raises DataError, which names the line."""
    rows, cut, left_out, unused, odd = list[Row](), 0, 0, Counter[str](), Counter[str]()
    for where, found in read_objects(path, content):
        tokens, learned = _example(where, found, tokenizer, unused, odd)
        row = _row(tokens[:length], learned[:length])
        cut += len(tokens) > length
        if count_labels(row):
            rows.append(row)
        elif len(tokens) <= length:
            raise DataError(f"{where}: nothing can be learned: the answer is empty, or is the first token")
        else:
            left_out += 1
    if not rows and left_out:
        raise DataError(f"{path}: truncation to {length} tokens removed every label of every row")
    if not rows:
        raise DataError(f"{path} has no rows")
    notes = tuple(note for note in [describe_unused(unused), *_describe_odd(odd)] if note)
    return Data(rows, cut=cut, left_out=left_out, notes=notes)


def _describe_odd(odd: Counter[str]) -> list[str]:
    return [f"{says}: {count:,}" for says, count in odd.items() if count]


def _row(tokens: list[int], learned: list[bool]) -> Row:
    ids = np.asarray(tokens, np.int64)
    return Row(ids, np.where(np.asarray(learned, bool), ids, IGNORED))


def _example(
    where: str, found: dict[str, Any], tokenizer: Tokenizer, unused: Counter[str], odd: Counter[str]
) -> tuple[list[int], list[bool]]:
    """The tokens of a row, and for each whether the model should say it."""
    end = [] if tokenizer.end is None else [tokenizer.end]
    match form_of(where, found, unused):
        case Pair(prompt, completion):
            before = tokenizer.encode_beginning(prompt)
            after = tokenizer.encode(completion, bare=True) + end
            return before + after, [False] * len(before) + [True] * len(after)
        case Plain(text):
            tokens = tokenizer.encode(text)
            tokens += end if tokens[-1:] != end else []
            return tokens, [True] * len(tokens)
        case turns:
            return _conversation(where, turns, tokenizer, unused, odd)


def _conversation(
    where: str, turns: Turns, tokenizer: Tokenizer, unused: Counter[str], odd: Counter[str]
) -> tuple[list[int], list[bool]]:
    template = tokenizer.template
    if template is None:
        raise DataError(f"{where} is a conversation, but the model has no chat template: write prompt and completion")
    told_to_template(where, turns.messages, turns.given, template.source_for(turns.given), unused)
    try:
        text, spans = answers(turns, template, odd)
        for name in ("tools", "documents"):
            if name in turns.given and text == _rendered(template, turns.messages, {**turns.given, name: None}):
                raise DataError(f"{where} has {name}, which the model's chat template does not show: remove them")
        for number in _not_shown(turns, template, text):
            role = quote_name(turns.messages[number]["role"])
            raise DataError(f"{where}: message {number + 1}, of the role {role}, is not shown by the chat template")
    except ModelError as error:
        raise DataError(f"{where}: {error}") from None
    tokens, places = tokenizer.encode_with_places(as_text(where, "the conversation", text))
    return tokens, learned(spans, places)


def _not_shown(turns: Turns, template: ChatTemplate, text: str) -> Iterator[int]:
    """The messages without which the conversation reads the same, but for the assistant's."""
    for i, message in enumerate(turns.messages):
        content = message.get("content", "").strip()
        if message["role"] == "assistant" or content in text:
            continue
        if text == _rendered(template, [*turns.messages[:i], *turns.messages[i + 1 :]], turns.given):
            yield i


def _rendered(template: ChatTemplate, messages: list[dict[str, Any]], given: dict[str, Any]) -> str | None:
    """None if the template asks for what is missing."""
    try:
        return template.render(messages, more=given)
    except ModelError:
        return None
