"""Prompts with their completions, or conversations: one JSON object a line.

    {"prompt": "2 + 2 =", "completion": " 4"}
    {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}

Only what the model is to say is learned. A completion is followed by the token that ends a text; prompt and completion
are encoded apart, as they are when the model answers. A conversation is rendered by the model's own template, and the
answers in it are found by rendering its beginnings: up to an answer, and up to the answer's end.

A row longer than the length loses its end. One that has nothing to be learned in what is left is left out.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ...models import ChatTemplate, ModelError, Tokenizer
from ...support.tensor_file import TensorFileError, json_object
from .rows import IGNORED, Data, DataError, Row, count_labels


def read(path: Path, content: str, tokenizer: Tokenizer, length: int) -> Data:
    """Raises DataError, which names the line."""
    rows, cut, left_out = list[Row](), 0, 0
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        tokens, said = _example(where, line, tokenizer)
        row = _row(tokens[:length], said[:length])
        cut += len(tokens) > length
        if count_labels(row):
            rows.append(row)
        elif len(tokens) <= length:
            raise DataError(f"{where}: there is nothing to be learned: what is to be said is empty, or the first token")
        else:
            left_out += 1
    if not rows:
        raise DataError(f"{path}: in no row, cut to {length} tokens, is anything left to be learned")
    return Data(rows, cut=cut, left_out=left_out)


def _row(tokens: list[int], said: list[bool]) -> Row:
    ids = np.asarray(tokens, np.int64)
    return Row(ids, np.where(np.asarray(said, bool), ids, IGNORED))


def _example(where: str, line: str, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """The tokens of a line, and for each whether it is the model that says it."""
    try:
        found = json_object(line, where)
    except TensorFileError as error:
        raise DataError(str(error)) from None
    match found:
        case {"prompt": prompt, "completion": completion}:
            before = tokenizer.encode_beginning(_text(where, "prompt", prompt))
            after = tokenizer.encode(_text(where, "completion", completion), bare=True)
            after += [] if tokenizer.end is None else [tokenizer.end]
            return before + after, [False] * len(before) + [True] * len(after)
        case {"messages": messages}:
            return _conversation(where, _check_messages(where, messages), tokenizer)
    has = ", ".join(list(found)[:5])[:80] or "nothing"
    raise DataError(f"{where} has {has}, expected prompt and completion, or messages")


def _conversation(where: str, messages: list[dict[str, Any]], tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    if tokenizer.template is None:
        raise DataError(f"{where} has messages, and the model has no chat template")
    try:
        text, spans = _answers(messages, tokenizer.template)
    except ModelError as error:
        raise DataError(f"{where}: {error}") from None
    tokens, places = tokenizer.encode_with_places(text)
    return tokens, [any(begin <= place < end for begin, end in spans) for place in places]


def _answers(messages: list[dict[str, Any]], template: ChatTemplate) -> tuple[str, list[tuple[int, int]]]:
    """The conversation as a text, and where in it the answers stand, each with what ends it but for white space."""
    whole, spans = template.render(messages), []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = template.render(messages[:i], begin_answer=True)
        after = template.render(messages[: i + 1])
        if not (whole.startswith(before) and whole.startswith(after) and len(before) <= len(after)):
            raise ModelError(f"the model's template renders message {i + 1} differently when more follows")
        spans.append((len(before), len(after.rstrip())))
    return whole, spans


def _check_messages(where: str, messages: Any) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise DataError(f"{where} has messages that are no list of objects with role and content")
    for i, message in enumerate(messages, 1):
        for name in ("role", "content"):
            _text(where, f"{name} of message {i}", message.get(name))
    if all(message["role"] != "assistant" for message in messages):
        raise DataError(f"{where} has no message of the role assistant: there is nothing to be learned")
    if messages[0]["role"] == "assistant":
        raise DataError(f"{where} begins with the assistant: there is nothing that it answers")
    return messages


def _text(where: str, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: {name} is {str(value)[:40]!r}, expected a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: {name} has half of a surrogate pair, which is no text") from None
    return value
