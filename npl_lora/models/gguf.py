"""Reading a GGUF file: the weights stay quantised in memory, and a tensor is dequantised when it is asked for.

llama.cpp turns pairs of neighbouring coordinates in rope, (2i, 2i + 1), where Hugging Face's files turn (i, i + D/2):
its converter permutes the rows of q and k within each head, and here they are permuted back.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; the gguf package's dequantisers.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .._extras import require
from ._config import ModelError
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
_PERMUTED = ("llama", "mistral")  # those whose converter permutes q and k


class GGUF:
    """An open file. config: as a config.json would have it. fields: all that the file says of itself."""

    def __init__(self, path: Path) -> None:
        self._gguf = require("gguf", "models", "a GGUF file")
        try:
            self._reader = self._gguf.GGUFReader(path)
        except (OSError, ValueError, IndexError, KeyError, UnicodeDecodeError, OverflowError, MemoryError) as error:
            raise ModelError(f"{path} is no GGUF file that can be read: {error}") from None
        self.path = path

    def field(self, name: str, default: Any = None) -> Any:
        """A value of the file's metadata."""
        found = self._reader.get_field(name)
        return default if found is None else found.contents()

    @property
    def config(self) -> dict[str, Any]:
        """The fields of a config.json. Raises ModelError for another architecture."""
        kind = str(self.field("general.architecture"))
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
            "vocab_size": len(self.field("tokenizer.ggml.tokens", [])),
            "sliding_window": self.field(f"{kind}.attention.sliding_window"),
        }
        if self.field(f"{kind}.rope.scaling.type", "none") != "none" or "rope_freqs.weight" in self._tensors():
            raise ModelError(f"{self.path} stretches rope in a way that is not read from GGUF: take its original files")
        return {name: value for name, value in found.items() if value is not None}

    def weights(self, dtype: Any = np.float32) -> Weights:
        """All tensors, under the names that Hugging Face's files have them by."""
        config = self.config
        heads = {"attn_q": config["num_attention_heads"], "attn_k": config.get("num_key_value_heads")}
        permuted = heads if config["model_type"] in _PERMUTED else {}
        return Weights({_renamed(name): self._stored(t, permuted) for name, t in self._tensors().items()}, dtype)

    def dtypes(self) -> Counter[str]:
        """How many values there are of each dtype, or type of block."""
        names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
        kinds = ((tensor.tensor_type.name, int(tensor.n_elements)) for tensor in self._tensors().values())
        found: Counter[str] = Counter()
        for kind, count in kinds:
            found[names.get(kind, kind)] += count
        return found

    def _tensors(self) -> dict[str, Any]:
        return {tensor.name: tensor for tensor in self._reader.tensors}

    def _stored(self, tensor: Any, permuted: Mapping[str, Any]) -> Stored:
        kind = tensor.tensor_type.name
        if kind not in _TYPES:
            raise ModelError(f"{self.path}: {tensor.name} is {kind}, expected one of {', '.join(_TYPES)}")
        heads = permuted.get(tensor.name.split(".")[-2])
        shape = tuple(int(n) for n in reversed(tensor.shape))
        return Stored(shape, self._read(tensor, heads), kind != "F32" or heads is not None)

    def _read(self, tensor: Any, heads: int | None) -> Callable[[], np.ndarray]:
        dequantize = self._gguf.quants.dequantize

        def read() -> np.ndarray:
            values = dequantize(tensor.data, tensor.tensor_type)
            return values if heads is None else _unpermuted(values, heads)

        return read


def _unpermuted(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows (pair, half) of each head -> (half, pair)."""
    pairs = values.reshape(heads, -1, 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)


def _renamed(name: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight."""
    parts = name.split(".")
    prefix = f"model.layers.{parts[1]}." if parts[0] == "blk" else ""
    inner = parts[-2] if len(parts) > 1 else name
    if inner not in _NAMES:
        raise ModelError(f"a GGUF tensor is named {name[:60]!r}, which belongs to no part of the model")
    return f"{prefix}{_NAMES[inner]}.{parts[-1]}"
