"""Text to tokens and back, by the tokenizers library, and the model's chat template.

The tokenizer comes from a folder's tokenizer.json or from the fields of a GGUF file.

Source: tokenizers 0.23; for GGUF, the fields tokenizer.ggml.* of llama.cpp; tokenizer_config.json of transformers.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..support.extras import require
from ..support.quoting import quote_value
from ._chat import ChatTemplate
from ._config import ModelError
from ._gguf import GGUF
from ._huggingface import read_config, read_json

_MERGES = "tokenizer.ggml.merges"
_CONTROL = 3  # GGUF's token_type for special tokens such as <|im_end|>


class Tokenizer:
    """encode(text) -> [token], decode([token]) -> text.

    stop: the tokens that end a text. end: the one to write at the end of a text, or None. template: the chat template,
    or None.
    """

    def __init__(self, inner: Any, stop: Iterable[int] = (), template: ChatTemplate | None = None) -> None:
        self._inner = inner
        ends = list(stop)
        self.stop, self.end, self.template = frozenset(ends), ends[0] if ends else None, template

    def encode(self, text: str, length: int | None = None, bare: bool = False) -> list[int]:
        """The tokens of a text. length: the most tokens; the text is cut, and the tokens that the tokenizer adds after
        it stay. bare: without the tokens that the tokenizer adds."""
        found = self._inner.encode(text, add_special_tokens=not bare)
        ids = list(found.ids)
        if length is None or len(ids) <= length:
            return ids
        behind = _count_added(found)
        return [*ids[: max(0, length - behind)], *ids[len(ids) - behind :]][:length]

    def encode_beginning(self, text: str) -> list[int]:
        """The tokens of an unfinished text, without those that the tokenizer adds after every text."""
        found = self._inner.encode(text)
        return list(found.ids)[: len(found.ids) - _count_added(found)]

    def encode_question(self, question: str) -> list[int]:
        """The tokens of a question in the model's chat template, up to the point where the answer starts. Raises
        ModelError if the model has no chat template."""
        if self.template is None:
            raise ModelError("the model has no chat template")
        text = self.template.render([{"role": "user", "content": question}], begin_answer=True)
        return self.encode(text, bare=True)

    def encode_with_places(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The tokens, without added ones, and where in the text each begins and ends."""
        found = self._inner.encode(text, add_special_tokens=False)
        return list(found.ids), list(found.offsets)

    def as_json(self) -> str:
        """The contents of a tokenizer.json."""
        return str(self._inner.to_str(pretty=True))

    def decode(self, tokens: Iterable[int], special: bool = False) -> str:
        """The text of the tokens. special: that of special tokens too."""
        return str(self._inner.decode(list(tokens), skip_special_tokens=not special))


def _count_added(found: Any) -> int:
    """How many tokens the tokenizer added after the text; 0 if all tokens were added."""
    return next((n for n, added in enumerate(reversed(found.special_tokens_mask)) if not added), 0)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a model's folder or .gguf file. Raises ModelError if there is none."""
    path = Path(path)
    return _of_gguf(GGUF(path)) if path.suffix == ".gguf" else _of_folder(path)


def _of_folder(folder: Path) -> Tokenizer:
    file = folder / "tokenizer.json"
    tokenizers = require("tokenizers", "models", "a tokenizer")
    if not folder.exists():
        raise ModelError(f"there is no {folder}")
    if not file.exists():
        raise ModelError(f"{folder} has no tokenizer.json")
    try:
        inner = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no narrower type
        raise ModelError(f"{file} is no tokenizer: {quote_value(str(error), 200)}") from None
    inner.no_padding()
    inner.no_truncation()
    return Tokenizer(inner, _read_ends(folder), _read_template(folder))


def _read_ends(folder: Path) -> list[int]:
    """eos_token_id from config.json and generation_config.json. The end of a turn may be in the second alone."""
    own, more = _check_ends(read_config(folder).get("eos_token_id"), folder), folder / "generation_config.json"
    also = _check_ends(read_json(more).get("eos_token_id"), more) if more.exists() else []
    return list(dict.fromkeys([*own, *also]))


def _read_template(folder: Path) -> ChatTemplate | None:
    """The template in chat_template.jinja, chat_template.json or tokenizer_config.json. There may be several, each with
    a name: tool_use is for a conversation with tools, and default for any other."""
    about, more = (
        read_json(folder / name) if (folder / name).exists() else {}
        for name in ("tokenizer_config.json", "chat_template.json")
    )
    found = {**_named(about.get("chat_template")), **_named(more.get("chat_template"))}
    files = {file.stem: file for file in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    if (own := folder / "chat_template.jinja").exists():
        files["default"] = own
    found |= {name: _read_text(file) for name, file in files.items()}
    if found and "default" not in found:
        raise ModelError(f"{folder} has chat templates named {', '.join(found)}, expected one named default")
    return ChatTemplate(found["default"], _special_names(about), found.get("tool_use")) if found else None


def _named(source: Any) -> dict[str, str]:
    """{name: template}. One alone is the default."""
    entries = source if isinstance(source, list) else [{"name": "default", "template": source}]
    entries = [entry for entry in entries if isinstance(entry, dict)]
    texts = {str(entry.get("name")): entry.get("template") for entry in entries}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ModelError(f"{file} is no text in UTF-8") from None


def _special_names(about: Mapping[str, Any]) -> dict[str, str]:
    """{"bos_token": "<s>", ...}. In the file a token is a string, or an object that contains one."""
    found = {name: about.get(f"{name}_token") for name in ("bos", "eos", "unk", "pad")}
    texts = {name: token.get("content") if isinstance(token, dict) else token for name, token in found.items()}
    return {f"{name}_token": token for name, token in texts.items() if isinstance(token, str)}


def _of_gguf(file: GGUF) -> Tokenizer:
    """Byte-level BPE, with a pre-tokenizer whose rules are implemented here."""
    tokenizers = require("tokenizers", "models", "a tokenizer")
    kind, before = file.field("tokenizer.ggml.model"), file.field("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or before not in ("smollm", "gpt-2"):
        kinds = f"a tokenizer {quote_value(kind)}, {quote_value(before)}"
        raise ModelError(f"{file.path} has {kinds}, which is not supported in a GGUF file: use a folder")
    names, pairs = file.texts("tokenizer.ggml.tokens"), [tuple(m.split(" ", 1)) for m in file.texts(_MERGES)]
    if not all(len(pair) == 2 for pair in pairs):
        raise ModelError(f"{file.path}: {_MERGES} has a merge that is not of two")
    try:
        inner = tokenizers.Tokenizer(tokenizers.models.BPE({name: i for i, name in enumerate(names)}, pairs))
    except Exception as error:  # the library raises no narrower type
        raise ModelError(f"{file.path} has no tokenizer: {quote_value(str(error), 200)}") from None
    pre = tokenizers.pre_tokenizers
    steps = [pre.Digits(individual_digits=True)] if before == "smollm" else []
    inner.pre_tokenizer = pre.Sequence([*steps, pre.ByteLevel(add_prefix_space=False)])
    inner.decoder = tokenizers.decoders.ByteLevel()
    types = np.atleast_1d(file.field("tokenizer.ggml.token_type", ()))
    special = [tokenizers.AddedToken(n, special=True) for n, t in zip(names, types, strict=False) if t == _CONTROL]
    inner.add_special_tokens(special)
    end = file.field("tokenizer.ggml.eos_token_id")
    keys = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    numbers = {name: file.field(f"tokenizer.ggml.{key}_token_id") for name, key in keys.items()}
    known = {f"{name}_token": names[n] for name, n in numbers.items() if isinstance(n, int) and 0 <= n < len(names)}
    source, with_tools = (file.field(f"tokenizer.chat_template{name}") for name in ("", ".tool_use"))
    with_tools = with_tools if isinstance(with_tools, str) else None
    template = ChatTemplate(source, known, with_tools) if isinstance(source, str) else None
    return Tokenizer(inner, _check_ends(end, file.path), template)


def _check_ends(found: Any, path: Path) -> list[int]:
    """eos_token_id as a list: it may be a token, a list of tokens, or missing."""
    stop = found if isinstance(found, list) else [] if found is None else [found]
    if not all(type(token) is int and 0 <= token < 1 << 31 for token in stop):
        raise ModelError(f"{path} has eos_token_id = {quote_value(found)}, expected tokens")
    return stop
