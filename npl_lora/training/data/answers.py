"""Where in a rendered conversation the answers stand that are learned.

A template may mark them itself. Else the beginning of the conversation is rendered twice for each: up to the answer,
with what the template opens an answer with, and up to the answer's end. Two kinds of templates need more care:

* Some rewrite earlier turns when more follows: those of models that think drop what was thought. An answer that is
  rewritten is not learned. The last one always is as the model would have to say it.
* Some open an answer with more than they show of one that is written, such as <think>. What is shown of it is learned.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial

from ...models import ChatTemplate, ModelError
from ...support.quoting import quote_value
from .forms import Turns

Span = tuple[int, int]

_TWO_CONTENTS = ("0", "1")


def answers(turns: Turns, template: ChatTemplate, odd: Counter[str]) -> tuple[str, list[Span]]:
    """The conversation as a text, and the span of each learned answer in it: with its end marker, without trailing
    white space. odd: counts what a user should know of the answers. Raises ModelError."""
    if template.marks_answers(turns.given):
        return _marked(turns, template)
    return _between(turns, template, odd)


def learned(spans: Sequence[Span], places: Sequence[Span]) -> list[bool]:
    """For each token, whether some of it is in a span. places: the tokens' own spans."""
    return [any(begin < b and a < end for begin, end in spans) for a, b in places]


def _marked(turns: Turns, template: ChatTemplate) -> tuple[str, list[Span]]:
    text, spans = template.render_marked(turns.messages, turns.given)
    for i, message in enumerate(turns.messages):
        if message["role"] == "assistant" and not turns.learned[i]:
            begin, end = (template.render(turns.messages[:n], more=turns.given) for n in (i, i + 1))
            if not (text.startswith(begin) and text.startswith(end)):
                raise ModelError(f"{_rewrites(i)}, so it cannot be left out")
            spans = [span for span in spans if not len(begin) <= span[0] < len(end)]
    return text, spans


def _between(turns: Turns, template: ChatTemplate, odd: Counter[str]) -> tuple[str, list[Span]]:
    render, messages = partial(template.render, more=turns.given), turns.messages
    text, spans, rewritten = render(messages), [], []
    for i in (i for i, is_learned in enumerate(turns.learned) if is_learned):
        after = render(messages[: i + 1])
        if not text.startswith(after):
            rewritten.append(i)
            continue
        before = render(messages[:i], begin_answer=True)
        begin = len(before)
        if not after.startswith(before):
            begin = _begin_of_content(turns, template, i, after) or _common(before, after)
            if after.startswith(asked := render(messages[:i])):
                opening = quote_value(before.removeprefix(asked))
                odd[f"answers that lack {opening}, with which the chat template opens one"] += 1
        spans.append((begin, len(after.rstrip())))
        odd["answers that the chat template changes"] += messages[i].get("content", "").strip() not in after[begin:]
    if rewritten and not spans:
        raise ModelError(f"{_rewrites(rewritten[-1])}, and no other answer is learned")
    odd["answers not learned, since the chat template rewrites them when more follows"] += len(rewritten)
    return text, spans


def _rewrites(i: int) -> str:
    return f"the model's template renders message {i + 1} differently when more follows"


def _begin_of_content(turns: Turns, template: ChatTemplate, i: int, after: str) -> int | None:
    """Where the content of message i starts: as far as the template renders two other contents alike. None where it
    does not show the content, but a call of a tool alone."""
    message, before = turns.messages[i], turns.messages[:i]
    one, other = (
        template.render([*before, {**message, "content": content}], more=turns.given) for content in _TWO_CONTENTS
    )
    begin = _common(one, other)
    return None if one == other or after[:begin] != one[:begin] else begin


def _common(one: str, other: str) -> int:
    """How many characters they begin with alike."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
