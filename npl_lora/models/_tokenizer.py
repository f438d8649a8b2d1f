"""Text to tokens and back, by the tokenizers library: from a folder's tokenizer.json, or from what a GGUF file holds.

Source: tokenizers 0.23; for GGUF, the fields tokenizer.ggml.* of llama.cpp.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .._extras import require
from ._config import ModelError
from .gguf import GGUF

_CONTROL = 3  # GGUF's token_type of tokens that are no text: <|im_end|> and the like


class Tokenizer:
    """encode(text) -> [token], decode([token]) -> text. stop: the tokens that end a text."""

    def __init__(self, inner: Any, stop: Iterable[int] = ()) -> None:
        self._inner = inner
        self.stop = frozenset(stop)

    def encode(self, text: str) -> list[int]:
        return list(self._inner.encode(text).ids)

    def decode(self, tokens: Iterable[int]) -> str:
        """What the tokens say; those that are no text say nothing."""
        return str(self._inner.decode(list(tokens), skip_special_tokens=True))


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a model's folder or .gguf file. Raises ModelError where there is none."""
    path = Path(path)
    return _of_gguf(GGUF(path)) if path.suffix == ".gguf" else _of_folder(path)


def _of_folder(folder: Path) -> Tokenizer:
    from .huggingface import read_config

    file = folder / "tokenizer.json"
    tokenizers = require("tokenizers", "models", "a tokenizer")
    if not file.exists():
        raise ModelError(f"{folder} has no tokenizer.json")
    try:
        inner = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no narrower type
        raise ModelError(f"{file} is no tokenizer: {error}") from None
    inner.no_padding()
    inner.no_truncation()
    ends = read_config(folder).get("eos_token_id")
    stop = ends if isinstance(ends, list) else [] if ends is None else [ends]
    return Tokenizer(inner, [int(token) for token in stop])


def _of_gguf(file: GGUF) -> Tokenizer:
    """Byte-level BPE, of the pre-tokenizers whose rules are known here."""
    tokenizers = require("tokenizers", "models", "a tokenizer")
    kind, before = file.field("tokenizer.ggml.model"), file.field("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or before not in ("smollm", "gpt-2"):
        raise ModelError(f"{file.path} has a tokenizer {kind!r}, {before!r}, that is not read from GGUF: take a folder")
    names, merges = file.field("tokenizer.ggml.tokens"), file.field("tokenizer.ggml.merges", [])
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    inner = tokenizers.Tokenizer(tokenizers.models.BPE({name: i for i, name in enumerate(names)}, pairs))
    pre = tokenizers.pre_tokenizers
    steps = [pre.Digits(individual_digits=True)] if before == "smollm" else []
    inner.pre_tokenizer = pre.Sequence([*steps, pre.ByteLevel(add_prefix_space=False)])
    inner.decoder = tokenizers.decoders.ByteLevel()
    types = file.field("tokenizer.ggml.token_type", [])
    special = [tokenizers.AddedToken(n, special=True) for n, t in zip(names, types, strict=False) if t == _CONTROL]
    inner.add_special_tokens(special)
    end = file.field("tokenizer.ggml.eos_token_id")
    return Tokenizer(inner, [] if end is None else [int(end)])
