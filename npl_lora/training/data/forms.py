"""The forms of a row: a prompt with its completion, a conversation, or a text.

    {"prompt": "2 + 2 =", "completion": " 4"}                       both texts, or both lists of messages
    {"messages": [{"role": "user", "content": "2 + 2?"}, ...]}      OpenAI's
    {"conversations": [{"from": "human", "value": "2 + 2?"}, ...]}  ShareGPT's
    {"instruction": "Add.", "input": "2 2", "output": "4"}          Alpaca's: the user's turn, and the answer
    {"text": "2 + 2 = 4"}                                           learned as a whole

Beside a conversation may stand tools, documents, chat_template_kwargs and system, which go to the chat template.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...support.quoting import quote_name, quote_value
from .fields import REASONING, WEIGHTS, is_empty, is_learned, refuse_fields
from .rows import DataError

Row = Mapping[str, Any]

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant"}
_ROLES |= {"system": "system", "tool": "tool", "observation": "tool", "function_response": "tool"}
_SYSTEM = ("system", "system_prompt")
_TEMPLATES_OWN = ("tools", "documents", "chat_template_kwargs")
_OWN_NAMES = ("messages", "add_generation_prompt", "tools", "documents")
_NO_TEMPLATE = "which only messages can have"


@dataclass(frozen=True)
class Plain:
    """A text that is learned as a whole."""

    text: str


@dataclass(frozen=True)
class Pair:
    """A prompt, and its completion, which is learned."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Turns:
    """A conversation. learned: for each message whether it is learned. given: what the template gets beside it."""

    messages: list[dict[str, Any]]
    learned: list[bool]
    given: dict[str, Any] = field(default_factory=dict)


def form_of(where: str, row: Row, unused: Counter[str]) -> Plain | Pair | Turns:
    """The row in its form. Fields that change nothing are counted. Raises DataError, which names the field."""
    row = {name: value for name, value in row.items() if value is not None}
    refuse_fields(where, row)
    found = [names for names in _FORMS if all(name in row for name in names)]
    if len(found) > 1 and ("text",) in found:  # beside another form it repeats that as one text
        found.remove(("text",))
    if len(found) > 1:
        one, other = (" and ".join(names) for names in found[:2])
        raise DataError(f"{where} has {one}, and also {other}: expected one of the two")
    if not found:
        names = ", ".join(quote_name(name) for name in list(row)[:5])[:80] or "nothing"
        raise DataError(f"{where} has {names}, expected {_EXPECTED}")
    example, used = _FORMS[found[0]](where, row)
    unused.update(name for name in map(quote_name, row) if name not in (*used, *WEIGHTS))
    return example


def _plain(where: str, row: Row) -> tuple[Plain, tuple[str, ...]]:
    refuse_fields(where, row, ("label",), "beside text: labelled texts are a .csv")
    refuse_fields(where, row, (*_TEMPLATES_OWN, *_SYSTEM), _NO_TEMPLATE)
    return Plain(as_text(where, "text", row["text"])), ("text",)


def _pair(where: str, row: Row) -> tuple[Pair | Turns, tuple[str, ...]]:
    prompt, completion, used = row["prompt"], row["completion"], ("prompt", "completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        turns = _turns(where, row, [*_messages(where, prompt), *_messages(where, completion)])
        begin = len(turns.messages) - len(completion)
        learned = [i >= begin and yes for i, yes in enumerate(turns.learned)]
        return Turns(turns.messages, learned, turns.given), (*used, *_TEMPLATES_OWN, *_SYSTEM)
    refuse_fields(where, row, ("instruction", "input", "context"), "beside a prompt: write it into the prompt")
    refuse_fields(where, row, (*_TEMPLATES_OWN, *_SYSTEM), _NO_TEMPLATE)
    return Pair(as_text(where, "prompt", prompt), as_text(where, "completion", completion)), used


def _openai(where: str, row: Row) -> tuple[Turns, tuple[str, ...]]:
    return _turns(where, row, _messages(where, row["messages"])), ("messages", *_TEMPLATES_OWN, *_SYSTEM)


def _sharegpt(where: str, row: Row) -> tuple[Turns, tuple[str, ...]]:
    turns = _objects(where, "conversations", row["conversations"])
    messages = []
    for number, turn in enumerate(turns, 1):
        if "from" not in turn and "role" in turn:
            messages.append(turn)
            continue
        who = turn.get("from")
        if not isinstance(who, str) or who not in _ROLES:
            raise DataError(f"{where}: turn {number} is from {quote_value(who)}, expected one of {', '.join(_ROLES)}")
        rest = {name: value for name, value in turn.items() if name not in ("from", "value")}
        messages.append({"role": _ROLES[who], "content": turn.get("value"), **rest})
    return _turns(where, row, _messages(where, messages)), ("conversations", *_TEMPLATES_OWN, *_SYSTEM)


def _alpaca(where: str, row: Row) -> tuple[Turns, tuple[str, ...]]:
    refuse_fields(where, row, ("context",), "beside an instruction: write it into the input")
    parts = [as_text(where, name, row.get(name, "")) for name in ("instruction", "input")]
    asked = "\n\n".join(part for part in parts if part.strip())
    said = [
        {"role": "user", "content": asked},
        {"role": "assistant", "content": as_text(where, "output", row["output"])},
    ]
    return _turns(where, row, said), ("instruction", "input", "output", *_TEMPLATES_OWN, *_SYSTEM)


_FORMS: dict[tuple[str, ...], Any] = {
    ("messages",): _openai,
    ("conversations",): _sharegpt,
    ("prompt", "completion"): _pair,
    ("instruction", "output"): _alpaca,
    ("text",): _plain,
}
_EXPECTED = "prompt and completion, or messages, conversations, instruction and output, or text"


def _turns(where: str, row: Row, messages: list[dict[str, Any]]) -> Turns:
    for name in _SYSTEM:
        if not is_empty(row.get(name)):
            if messages[0]["role"] == "system":
                raise DataError(f"{where} has {name}, and a first message of the role system too")
            messages = [{"role": "system", "content": as_text(where, name, row[name])}, *messages]
    if all(message["role"] != "assistant" for message in messages):
        raise DataError(f"{where} has no message with the role assistant: nothing can be learned")
    if messages[0]["role"] == "assistant":
        raise DataError(f"{where} starts with the assistant: there is nothing to answer")
    learned = [is_learned(where, number, message) for number, message in enumerate(messages, 1)]
    if not any(learned):
        raise DataError(f"{where}: nothing can be learned: no answer has a weight that is not 0")
    return Turns(messages, learned, _given(where, row))


def _given(where: str, row: Row) -> dict[str, Any]:
    """What the template gets beside the messages: tools, documents, and what chat_template_kwargs names."""
    more = row.get("chat_template_kwargs", {})
    if not isinstance(more, dict):
        raise DataError(f"{where} has chat_template_kwargs = {quote_value(more)}, expected an object")
    if own := [name for name in _OWN_NAMES if name in more]:
        raise DataError(f"{where} has {own[0]} within chat_template_kwargs: it stands beside them")
    lists = {}
    for name in ("tools", "documents"):
        if not is_empty(value := _unpacked(row.get(name))):
            lists[name] = _objects(where, name, value)
    return {**more, **lists}


def _unpacked(value: Any) -> Any:
    """Tables of rows store tools as JSON in a text."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def _objects(where: str, name: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value or not all(isinstance(one, dict) for one in value):
        raise DataError(f"{where} has {name} = {quote_value(value, 40)}, expected a list of objects")
    return value


def _messages(where: str, found: Any) -> list[dict[str, Any]]:
    """Messages, each with a role and a text; without one only beside a call of a tool. As in transformers, a field that
    is null is left out, and what a model reasoned has all of its names."""
    if not isinstance(found, list) or not found or not all(isinstance(message, dict) for message in found):
        raise DataError(f"{where} has messages, expected a list of objects with role and content")
    messages = []
    for number, given in enumerate(found, 1):
        message = {name: value for name, value in given.items() if value is not None}
        as_text(where, f"role of message {number}", message.get("role"))
        if isinstance(message.get("content"), list):
            message["content"] = "".join(_part(where, number, part) for part in message["content"])
        elif "content" in message or all(is_empty(message.get(name)) for name in ("tool_calls", "function_call")):
            as_text(where, f"content of message {number}", message.get("content"))
        reasoned = [message[name] for name in REASONING if name in message]
        more = dict.fromkeys(("thinking", "reasoning_content"), reasoned[0]) if reasoned else {}
        messages.append(message | {name: value for name, value in more.items() if name not in message})
    return messages


def _part(where: str, number: int, part: Any) -> str:
    """A part of a content: a text. Pictures and sounds are refused."""
    if isinstance(part, dict) and part.get("type") in ("text", "input_text", "output_text"):
        return as_text(where, f"text of message {number}", part.get("text"))
    kind = part.get("type") if isinstance(part, dict) else part
    raise DataError(f"{where}: message {number} has a part of type {quote_value(kind)}, expected parts of type 'text'")


def as_text(where: str, name: str, value: Any) -> str:
    """The value, if it is a text. Raises DataError."""
    if not isinstance(value, str):
        raise DataError(f"{where}: {name} is {quote_value(str(value), 40)}, expected a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: {name} has half of a surrogate pair, which is not text") from None
    return value
