"""Prompts with completions, or conversations: one JSON object a line.

    {"prompt": "2 + 2 =", "completion": " 4"}
    {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}

Only what the model should say is learned. A completion is followed by the token that ends a text. Prompt and completion
are encoded separately, as when the model answers. A conversation is rendered by the model's own template. To find an
answer in it, its beginning is rendered twice: up to the answer, and up to the answer's end.

A row longer than the length loses its end. It is dropped if truncation removed every label.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ...models import ChatTemplate, ModelError, Tokenizer
from ...support.tensor_file import TensorFileError, json_object
from .rows import IGNORED, Data, DataError, Row, count_labels


def read(path: Path, content: str, tokenizer: Tokenizer, length: int) -> Data:
    """The rows of the file. Raises DataError, which names the line."""
    rows, cut, left_out = list[Row](), 0, 0
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        tokens, learned = _example(where, line, tokenizer)
        row = _row(tokens[:length], learned[:length])
        cut += len(tokens) > length
        if count_labels(row):
            rows.append(row)
        elif len(tokens) <= length:
            raise DataError(f"{where}: nothing can be learned: the answer is empty, or is the first token")
        else:
            left_out += 1
    if not rows:
        raise DataError(f"{path}: truncation to {length} tokens removed every label of every row")
    return Data(rows, cut=cut, left_out=left_out)


def _row(tokens: list[int], learned: list[bool]) -> Row:
    ids = np.asarray(tokens, np.int64)
    return Row(ids, np.where(np.asarray(learned, bool), ids, IGNORED))


def _example(where: str, line: str, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """The tokens of a line, and for each whether the model should say it."""
    try:
        content = json_object(line, where)
    except TensorFileError as error:
        raise DataError(str(error)) from None
    match content:
        case {"prompt": prompt, "completion": completion}:
            before = tokenizer.encode_beginning(_text(where, "prompt", prompt))
            after = tokenizer.encode(_text(where, "completion", completion), bare=True)
            after += [] if tokenizer.end is None else [tokenizer.end]
            return before + after, [False] * len(before) + [True] * len(after)
        case {"messages": messages}:
            return _conversation(where, _check_messages(where, messages), tokenizer)
    names = ", ".join(list(content)[:5])[:80] or "nothing"
    raise DataError(f"{where} has {names}, expected prompt and completion, or messages")


def _conversation(where: str, messages: list[dict[str, Any]], tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    if tokenizer.template is None:
        raise DataError(f"{where} has messages, but the model has no chat template")
    try:
        text, spans = _answers(messages, tokenizer.template)
    except ModelError as error:
        raise DataError(f"{where}: {error}") from None
    tokens, places = tokenizer.encode_with_places(text)
    return tokens, [any(begin <= place < end for begin, end in spans) for place in places]


def _answers(messages: list[dict[str, Any]], template: ChatTemplate) -> tuple[str, list[tuple[int, int]]]:
    """The conversation as a text, and the span of each answer in it: with its end marker, without trailing white
    space."""
    text, spans = template.render(messages), []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = template.render(messages[:i], begin_answer=True)
        after = template.render(messages[: i + 1])
        if not (text.startswith(before) and text.startswith(after) and len(before) <= len(after)):
            raise ModelError(f"the model's template renders message {i + 1} differently when more follows")
        spans.append((len(before), len(after.rstrip())))
    return text, spans


def _check_messages(where: str, messages: Any) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise DataError(f"{where} has messages, expected a list of objects with role and content")
    for i, message in enumerate(messages, 1):
        for name in ("role", "content"):
            _text(where, f"{name} of message {i}", message.get(name))
    if all(message["role"] != "assistant" for message in messages):
        raise DataError(f"{where} has no message with the role assistant: nothing can be learned")
    if messages[0]["role"] == "assistant":
        raise DataError(f"{where} starts with the assistant: there is nothing to answer")
    return messages


def _text(where: str, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: {name} is {str(value)[:40]!r}, expected a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: {name} has half of a surrogate pair, which is not text") from None
    return value
