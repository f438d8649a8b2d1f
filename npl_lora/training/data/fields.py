"""What a field of a row or of a message does. It is honoured, or it is refused by name: nothing that changes what is
learned or shown is dropped in silence. A field that changes nothing is counted.

The names are those of OpenAI's files, of TRL, axolotl, ms-swift, torchtune and LLaMA-Factory.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from ...support.quoting import quote_name, quote_value
from .rows import DataError

WEIGHTS = ("weight", "sample_weight", "loss_weight", "loss_scale")
_PAIR = "which is for preference training, as DPO does it: here one answer is learned"
_PICTURES = "which a language model of texts cannot be shown"
_OWN_LABELS = "which says what is learned: here that follows from the messages, or from the completion"

# Fields of a row that no form has.
_REFUSED = {
    **dict.fromkeys(("chosen", "rejected", "kto_tag"), _PAIR),
    **dict.fromkeys(("image", "images", "video", "videos", "audio", "audios"), _PICTURES),
    **dict.fromkeys(
        ("input_ids", "labels", "loss_mask", "completion_mask", "assistant_masks", "train_on_inputs"), _OWN_LABELS
    ),
    **dict.fromkeys(("train", "training", "mask", "masked"), _OWN_LABELS),
    **dict.fromkeys(("functions", "function_call"), "an older form of tools: write tools"),
    **dict.fromkeys(("chat_template", "enable_thinking"), "which is for the template: write chat_template_kwargs"),
    "history": "which is turns before the prompt: write messages",
}

# Fields of a message that say whether it is learned: the value that means yes.
_LEARNED = {"weight": True, "train": True, "training": True, "loss": True, "masked": False}
_OF_PART = ("train_detail", "loss_scale", "loss_weight", "mask")

# Fields of a message that the model must see, if there is something in them.
REASONING = ("reasoning_content", "thinking", "reasoning")  # names for one thing
_TOLD = ("tool_calls", "function_call", *REASONING, "refusal", "tool_responses")
_NOTHING: tuple[Any, ...] = (None, "", [], {})


def is_empty(value: Any) -> bool:
    """Whether a field says nothing. Tables of rows fill the fields that a row does not have."""
    return value in _NOTHING


def refuse_fields(where: str, row: Mapping[str, Any], also: Collection[str] = (), because: str = "") -> None:
    """Raises DataError for a field that would change what is learned or shown, and is not supported. also: more such
    fields, and the reason."""
    for name in row:
        if name in _REFUSED and not is_empty(row[name]):
            raise DataError(f"{where} has {name}, {_REFUSED[name]}")
        if name in also and not is_empty(row[name]):
            raise DataError(f"{where} has {name}, {because}")
        if name in WEIGHTS and row[name] != 1:
            raise DataError(f"{where} has {name} = {quote_value(row[name])}: a row counts once, or is left out")
    if type(row.get("label")) is bool:
        raise DataError(f"{where} has label = {quote_value(row['label'])}, {_PAIR.replace('DPO', 'KTO')}")


def is_learned(where: str, number: int, message: Mapping[str, Any]) -> bool:
    """Whether a message is learned: the assistant's are, unless a field says no. Raises DataError for a weight that is
    neither 0 nor 1, and for one that would have another role learned."""
    answers, said = message["role"] == "assistant", []
    for name in (name for name in message if message[name] is not None):
        if name in _OF_PART:
            raise DataError(f"{where}: message {number} has {name}: a message is learned as a whole or not at all")
        if name in _LEARNED:
            if message[name] not in (0, 1):
                value = quote_value(message[name])
                raise DataError(f"{where}: message {number} has {name} = {value}, expected 0 or 1, true or false")
            said.append((name, bool(message[name]) is _LEARNED[name]))
    if not answers and any(yes for _, yes in said):
        name = next(name for name, yes in said if yes)
        role = quote_name(str(message["role"]))
        raise DataError(f"{where}: message {number} has {name}, but only the assistant's are learned, not the {role}'s")
    return answers and all(yes for _, yes in said)


def told_to_template(
    where: str, messages: list[dict[str, Any]], given: Mapping[str, Any], source: str, unused: Counter[str]
) -> None:
    """Raises DataError if a message has something to say that the template (its source) never mentions. Other fields
    that it never mentions are counted, and names in chat_template_kwargs. given: what stands beside the messages."""
    unmentioned = [name for name in given if not _mentions(source, name) and name not in ("tools", "documents")]
    unused.update(f"chat_template_kwargs' {quote_name(name)}" for name in unmentioned)
    names = dict.fromkeys(name for message in messages for name in message if not is_empty(message[name]))
    for name in names:
        if name in ("role", "content", *_LEARNED) or _mentions(source, name):
            continue
        if name in REASONING and any(_mentions(source, other) for other in REASONING):
            continue
        if name in _REFUSED and name not in _TOLD:
            raise DataError(f"{where} has a message with {name}, {_REFUSED[name]}")
        if name in _TOLD:
            raise DataError(f"{where} has a message with {name}, which the model's chat template never shows")
        unused[f"messages' {quote_name(name)}"] += 1


def _mentions(source: str, name: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", source) is not None


def describe_unused(unused: Counter[str]) -> str:
    """ "fields that change nothing: id (8 rows), source (1 row)", or ""."""
    named = [f"{name} ({count:,} row{'' if count == 1 else 's'})" for name, count in unused.most_common(8)]
    more = f" and {len(unused) - 8} more" if len(unused) > 8 else ""
    return f"fields that change nothing: {', '.join(named)}{more}" if named else ""
