"""A model's chat template, which turns a conversation into the text that the model was trained on.

The template is a Jinja program that came with the model, so it runs in Jinja's sandbox. It sees the messages and the
special tokens, as in transformers. It does not see the date (`strftime_now`): with it, the rows would change from day
to day, and a run could not be resumed.

Source: transformers 5.23.0, utils/chat_template_utils.py.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from ..support.extras import require
from ._config import ModelError

Message = Mapping[str, Any]


class ChatTemplate:
    """source: the template. names: {name: text} of the special tokens, for example bos_token."""

    def __init__(self, source: str, names: Mapping[str, str]) -> None:
        self.source, self.names = source, dict(names)

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
            return str(self._template.render(**given))
        except jinja2.TemplateError as error:
            raise ModelError(f"the chat template fails: {error}") from None
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            raise ModelError(f"the chat template fails: {type(error).__name__}: {error}") from None

    @cached_property
    def _template(self) -> Any:
        jinja2, sandbox = (require(name, "models", "a chat template") for name in ("jinja2", "jinja2.sandbox"))

        class Generation(require("jinja2.ext", "models", "a chat template").Extension):  # type: ignore[misc]
            """{% generation %} … {% endgeneration %}, which marks the answers in some templates."""

            tags = {"generation"}  # noqa: RUF012 (as Jinja has it)

            def parse(self, parser: Any) -> Any:
                line = next(parser.stream).lineno
                return jinja2.nodes.Scope(
                    parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line
                )

        def raise_exception(message: str) -> None:
            raise jinja2.TemplateError(message)

        def tojson(value: Any, indent: int | None = None, **options: Any) -> str:
            return json.dumps(value, **{"ensure_ascii": False, "indent": indent, **options})

        extensions = [Generation, "jinja2.ext.loopcontrols"]
        environment = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        environment.filters["tojson"] = tojson
        environment.globals["raise_exception"] = raise_exception
        return environment.from_string(self.source)
