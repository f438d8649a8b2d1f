"""Read a GGUF file. The weights stay quantised in memory, and a tensor is dequantised each time it is read.

In rope, llama.cpp rotates neighbouring coordinates (2i, 2i + 1), and Hugging Face's models rotate (i, i + D/2). So
llama.cpp's converter permutes the rows of q and k within each head. Here they are permuted back.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; the gguf package's dequantisers.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..support.extras import require
from ..support.quoting import quote_name, quote_value
from ._config import ModelError
from ._gguf_file import Entry, GGUFError, open_file, read_head
from ._rope_config import read_rope
from ._weights import Stored, Weights

_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")
_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_SCALING = {"factor": "factor", "original_max_position_embeddings": "original_context_length"}
_SCALING |= {"beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow"}
# Llama 3.1's to 3.3's, which a GGUF file does not have
_LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LLAMA3 |= {"original_max_position_embeddings": 8192}
_KINDS = ("llama", "mistral", "qwen2", "qwen3")
_PERMUTED = ("llama", "mistral")  # kinds whose q and k the converter permutes


class GGUF:
    """An open file. config: the fields of a config.json. Raises ModelError if it is not a GGUF file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._data = open_file(path)
            self._head = read_head(self._data)
        except GGUFError as error:
            raise ModelError(f"{path} {error}") from None

    def field(self, name: str, default: Any = None) -> Any:
        """A value of the file's metadata: a number, a text, an array of numbers or a list of texts."""
        found = self._head.fields.get(name, default)
        try:
            if isinstance(found, bytes):
                return found.decode("utf-8")
            return [text.decode("utf-8") for text in found] if isinstance(found, list) else found
        except UnicodeDecodeError:
            raise ModelError(f"{self.path}: {name[:60]} is not UTF-8") from None

    @property
    def config(self) -> dict[str, Any]:
        """The fields of a config.json. Raises ModelError for another architecture."""
        kind = str(self.field("general.architecture"))
        if kind not in _KINDS:  # some are stored otherwise than in a folder: Gemma's norms have the 1 added
            expected = f"expected one of {', '.join(_KINDS)}: use a folder"
            raise ModelError(f"{self.path} is of the kind {quote_name(kind, 40)}, {expected}")
        found = {
            "model_type": kind,
            "num_hidden_layers": self.field(f"{kind}.block_count"),
            "hidden_size": self.field(f"{kind}.embedding_length"),
            "intermediate_size": self.field(f"{kind}.feed_forward_length"),
            "num_attention_heads": self.field(f"{kind}.attention.head_count"),
            "num_key_value_heads": self.field(f"{kind}.attention.head_count_kv"),
            "head_dim": self.field(f"{kind}.attention.key_length"),
            "max_position_embeddings": self.field(f"{kind}.context_length"),
            "rms_norm_eps": self.field(f"{kind}.attention.layer_norm_rms_epsilon"),
            "rope_theta": self.field(f"{kind}.rope.freq_base", 10000.0),
            "vocab_size": len(self.texts("tokenizer.ggml.tokens")),
            "sliding_window": self.field(f"{kind}.attention.sliding_window"),
            "tie_word_embeddings": "output.weight" not in self._head.entries,
        }
        found["rope_scaling"] = self._rope_scaling(kind)
        return {name: value for name, value in found.items() if value is not None}

    def _rope_scaling(self, kind: str) -> dict[str, Any] | None:
        """How rope is scaled, as in a config.json. Llama 3's file has the quotients of the plain angles and its own."""
        name = self.field(f"{kind}.rope.scaling.type", "none")
        if "rope_freqs.weight" in self._head.entries:
            return self._llama3_scaling(kind)
        if name == "none":
            return None
        if name not in ("linear", "yarn"):
            raise ModelError(f"{self.path} scales rope by {quote_value(name)}, expected linear or yarn")
        if self.field(f"{kind}.rope.scaling.attn_factor", 1.0) != 1.0:
            raise ModelError(f"{self.path} has rope.scaling.attn_factor, which is not supported in a GGUF file")
        found = {ours: self.field(f"{kind}.rope.scaling.{theirs}") for ours, theirs in _SCALING.items()}
        return {"rope_type": name} | {ours: value for ours, value in found.items() if value is not None}

    def _llama3_scaling(self, kind: str) -> dict[str, Any]:
        entry = self._head.entries["rope_freqs.weight"]
        quotients = np.asarray(self._stored("rope_freqs.weight", entry, {}).read(), np.float64)
        found = {**_LLAMA3, "factor": float(np.max(quotients, initial=1.0))}
        theta, D = float(self.field(f"{kind}.rope.freq_base", 10000.0)), 2 * quotients.size
        if quotients.ndim != 1 or not quotients.size or found["factor"] == 1.0:
            raise ModelError(f"{self.path} has a rope_freqs.weight that scales nothing")
        plain, scaled = (
            read_rope({"rope_theta": theta, **more}, D, 1).frequencies for more in ({}, {"rope_scaling": found})
        )
        if not np.allclose(np.divide(plain, scaled), quotients, rtol=1e-5, atol=0.0):
            raise ModelError(
                f"{self.path} has a rope_freqs.weight that is not Llama 3's, which is not supported in a GGUF file:"
                " use the original files"
            )
        return found

    def texts(self, name: str) -> list[str]:
        """A field that is a list of strings; empty if there is none. Raises ModelError."""
        found = self.field(name, [])
        if not isinstance(found, list):
            raise ModelError(f"{self.path}: {name} is {quote_value(found)}, expected a list of texts")
        return found

    def weights(self, dtype: Any = np.float32, allow_nonfinite: bool = False) -> Weights:
        """All tensors, under their names in Hugging Face's files."""
        config = self.config
        heads = {f"attn_{name}": config.get("num_attention_heads") for name in "qk"}
        heads["attn_k"] = config.get("num_key_value_heads", heads["attn_k"])
        permuted = heads if config["model_type"] in _PERMUTED else {}
        entries = [(name, entry) for name, entry in self._head.entries.items() if name != "rope_freqs.weight"]
        stored = {_rename(name): self._stored(name, entry, permuted) for name, entry in entries}
        return Weights({n: replace(s, file=None) for n, s in stored.items()} if allow_nonfinite else stored, dtype)

    def dtypes(self) -> Counter[str]:
        """How many values have each dtype, or each type of quantised block."""
        names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
        found: Counter[str] = Counter()
        for name, entry in self._head.entries.items():
            kind = self._kind(name, entry).name
            found[names.get(kind, kind)] += math.prod(entry.shape)
        return found

    def _kind(self, name: str, entry: Entry) -> Any:
        """The tensor's type, as the gguf package names it."""
        kinds = require("gguf", "models", "a GGUF file").GGMLQuantizationType
        if entry.type not in [int(kinds[kind]) for kind in _TYPES]:
            raise ModelError(f"{self.path}: {name} is of type {entry.type}, expected one of {', '.join(_TYPES)}")
        return kinds(entry.type)

    def _stored(self, name: str, entry: Entry, permuted: Mapping[str, Any]) -> Stored:
        package = require("gguf", "models", "a GGUF file")
        kind, heads = self._kind(name, entry), permuted.get(name.split(".")[-2])
        rows = self._rows(name, entry, *package.constants.GGML_QUANT_SIZES[kind])

        def read() -> np.ndarray:
            values = package.quants.dequantize(rows, kind)
            return values if heads is None else _unpermuted(values, heads)

        return Stored(entry.shape, read, kind.name != "F32" or heads is not None, self.path, name)

    def _rows(self, name: str, entry: Entry, block: int, size: int) -> np.ndarray:
        """The tensor's bytes (..., bytes). It is stored in blocks of `block` numbers, `size` bytes each."""
        shape = entry.shape or (1,)
        if 0 in shape:  # then nothing limits the other dimensions
            raise ModelError(f"{self.path}: {name} has shape {shape}, expected numbers in it")
        if shape[-1] % block:
            raise ModelError(f"{self.path}: {name} has rows of {shape[-1]}, expected a multiple of {block}")
        width = shape[-1] // block * size
        end = entry.begin + math.prod(shape[:-1]) * width
        if end > self._data.size:
            raise ModelError(f"{self.path} is truncated: {name} ends at byte {end:,} of {self._data.size:,}")
        return self._data[entry.begin : end].reshape(*shape[:-1], width)


def _unpermuted(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows (pair, half) of each head -> (half, pair)."""
    pairs = values.reshape(heads, -1, 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)


def _rename(name: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight."""
    found = re.fullmatch(r"(?:blk\.(0|[1-9][0-9]{0,5})\.)?(\w+)\.(weight|bias)", name, re.ASCII)
    if found is None or found[2] not in _NAMES:
        raise ModelError(f"a GGUF tensor has the unknown name {quote_name(name)}")
    return f"{'' if found[1] is None else f'model.layers.{found[1]}.'}{_NAMES[found[2]]}.{found[3]}"
