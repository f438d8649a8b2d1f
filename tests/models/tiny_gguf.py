"""The tiny Llama as a GGUF file, in float32: q and k are not permuted, so its numbers mean nothing."""

import gguf
import numpy as np
from models import tiny

from npl_lora.models import _gguf as reader

_THEIRS = {ours: theirs for theirs, ours in reader._NAMES.items()}


def written(path, change=None):
    """The file's path. change: what is done to the tensors first."""
    writer, config = gguf.GGUFWriter(path, "llama"), tiny.CONFIG
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_custom_alignment(64)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*"0123456789", "a", "b", "ab"])
    writer.add_token_merges(["a b"])
    writer.add_token_types([1] * 12 + [3])
    writer.add_eos_token_id(12)
    arrays = tiny.tensors("llama", "float32")
    if change is not None:
        change(arrays)
    for name, array in arrays.items():
        inner, last = name.removeprefix("model.layers.").rsplit(".", 1)
        layer, _, within = inner.partition(".")
        theirs = f"blk.{layer}.{_THEIRS[within]}" if layer.isdigit() else _THEIRS[inner]
        writer.add_tensor(f"{theirs}.{last}", np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
