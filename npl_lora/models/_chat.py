"""A model's chat template, which turns a conversation into the text that the model was trained on.

The template is a Jinja program that came with the model, so it runs in Jinja's sandbox. It sees the messages, the
special tokens and the date, as in transformers.

Source: transformers 5.23.0, utils/chat_template_utils.py.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from ..support.extras import require
from ._config import ModelError

Message = Mapping[str, Any]
Span = tuple[int, int]

_BEGIN, _END = "\ufdd0", "\ufdd1"  # around what the template marks. No text has these: they are no characters


class ChatTemplate:
    """source: the template. names: {name: text} of the special tokens, for example bos_token. with_tools: the template
    for a conversation with tools, if it has one of its own.

    now: the date that the template sees; by default, that of today. shows_date: whether it has asked for it.
    """

    def __init__(self, source: str, names: Mapping[str, str], with_tools: str | None = None) -> None:
        self.source, self.names, self.with_tools = source, dict(names), with_tools
        self.now, self.shows_date = datetime.now(), False
        self._compiled = cache(self._compile)
        self._is_marking = False

    def source_for(self, more: Mapping[str, Any]) -> str:
        """The template that is used with these. more: as in render."""
        return self.with_tools if self.with_tools is not None and more.get("tools") is not None else self.source

    def render(
        self, messages: Sequence[Message], begin_answer: bool = False, more: Mapping[str, Any] | None = None
    ) -> str:
        """The messages, each {"role": ..., "content": ...}, as one text. begin_answer: add the start of the assistant's
        next turn. more: what else the template sees: tools, documents, and names of its own. Raises ModelError if the
        template fails or refuses."""
        jinja2 = require("jinja2", "models", "a chat template")
        given = {**self.names, "tools": None, "documents": None, **(more or {})}
        given |= {"messages": list(messages), "add_generation_prompt": begin_answer}
        try:
            return str(self._compiled(self.source_for(given)).render(**given))
        except jinja2.TemplateError as error:
            raise ModelError(f"the chat template fails: {error}") from None
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            raise ModelError(f"the chat template fails: {type(error).__name__}: {error}") from None

    def marks_answers(self, more: Mapping[str, Any]) -> bool:
        """Whether it marks what the assistant says, with {% generation %}."""
        return re.search(r"\{%-?\s*generation\s*-?%\}", self.source_for(more)) is not None

    def render_marked(self, messages: Sequence[Message], more: Mapping[str, Any]) -> tuple[str, list[Span]]:
        """The messages as one text, and the spans that the template marks. Raises ModelError."""
        text, self._is_marking = self.render(messages, more=more), True
        try:
            marked = self.render(messages, more=more)
        finally:
            self._is_marking = False
        spans, begin = list[Span](), 0
        for n, found in enumerate(re.finditer(f"[{_BEGIN}{_END}]", marked)):
            place = found.start() - n
            if found[0] == _END:
                spans.append((begin, place))
            begin = place
        if re.sub(f"[{_BEGIN}{_END}]", "", marked) != text:
            raise ModelError("the chat template fails: it changes what it marks as the assistant's")
        return text, spans

    def _mark(self, text: str) -> str:
        return f"{_BEGIN}{text}{_END}" if self._is_marking else text

    def _tell_date(self, format: str) -> str:
        self.shows_date = True
        return self.now.strftime(format)

    def _compile(self, source: str) -> Any:
        jinja2, sandbox = (require(name, "models", "a chat template") for name in ("jinja2", "jinja2.sandbox"))
        mark = self._mark

        class Generation(require("jinja2.ext", "models", "a chat template").Extension):  # type: ignore[misc]
            """{% generation %} … {% endgeneration %}, which marks the answers in some templates."""

            tags = {"generation"}  # noqa: RUF012 (as Jinja has it)

            def parse(self, parser: Any) -> Any:
                line = next(parser.stream).lineno
                body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
                return jinja2.nodes.CallBlock(self.call_method("_answer"), [], [], body).set_lineno(line)

            def _answer(self, caller: Any) -> str:
                return mark(str(caller()))

        def raise_exception(message: str) -> None:
            raise jinja2.TemplateError(message)

        def tojson(value: Any, indent: int | None = None, **options: Any) -> str:
            return json.dumps(value, **{"ensure_ascii": False, "indent": indent, **options})

        extensions = [Generation, "jinja2.ext.loopcontrols"]
        environment = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        environment.filters["tojson"] = tojson
        environment.globals |= {"raise_exception": raise_exception, "strftime_now": self._tell_date}
        return environment.from_string(source)
