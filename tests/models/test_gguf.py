"""GGUF files of all kinds of tensors that are read, with q and k permuted as llama.cpp's converter does it."""

import gguf
import numpy as np
import pytest
from models import tiny

from npl_lora.models import ModelError, load, load_tokenizer

CONFIG = {**tiny.CONFIG, "hidden_size": 256, "intermediate_size": 256, "head_dim": 32}  # blocks of 256 in Q4_K
THEIRS = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def permuted(W, heads):
    """What llama.cpp's converter does to q and k: (half, pair) of each head -> (pair, half)."""
    return W.reshape(heads, 2, -1, W.shape[1]).swapaxes(1, 2).reshape(W.shape)


def written(path, kind, arrays, **fields):
    """A GGUF file of these tensors, the matrices stored as `kind`, and what they are after that."""
    writer, kept = gguf.GGUFWriter(path, "llama"), {}
    writer.add_block_count(2)
    writer.add_embedding_length(256)
    writer.add_feed_forward_length(256)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_key_length(32)
    writer.add_context_length(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(100.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(fields.get("pre", "smollm"))
    writer.add_token_list([*"012345678", "a", "b", "ab", "<|end|>"])
    writer.add_token_merges(["a b"])
    writer.add_token_types([1] * 12 + [3])
    writer.add_eos_token_id(12)
    for name, array in arrays.items():
        path_, last = name.rsplit(".", 1)
        layer = path_.removeprefix("model.layers.").split(".", 1) if "layers" in path_ else None
        ours = path_ if layer is None else layer[1]
        full = f"{'' if layer is None else f'blk.{layer[0]}.'}{THEIRS[ours]}.{last}"
        heads = {"self_attn.q_proj": 4, "self_attn.k_proj": 2}.get(ours)
        stored = array if heads is None else permuted(array, heads)
        type_ = gguf.GGMLQuantizationType[kind if array.ndim == 2 else "F32"]
        data = gguf.quants.quantize(stored, type_)
        writer.add_tensor(full, data, raw_dtype=type_)
        value = gguf.quants.dequantize(data, type_)
        kept[name] = value if heads is None else value.reshape(heads, -1, 2, 256).swapaxes(1, 2).reshape(value.shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, kept


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    small = tiny.tensors("llama", "float32")
    shapes = {"q_proj": (128, 256), "o_proj": (256, 128), "k_proj": (64, 256), "v_proj": (64, 256)}
    big = {}
    for name, array in small.items():
        part = name.split(".")[-2]
        shape = (256,) if array.ndim == 1 else shapes.get(part, (13 if array.shape[0] == 13 else 256, 256))
        big[name] = (0.1 * rng.standard_normal(shape)).astype(np.float32)
    return big


# The package has no quantiser for Q4_K and Q6_K; what it dequantises, it dequantises for us.
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_what_is_read_is_what_was_written(tmp_path, arrays, kind):
    path, kept = written(tmp_path / "model.gguf", kind, arrays)
    model = load(path)
    assert model.base.is_coded
    assert set(model.base) == set(kept)
    for name, right in kept.items():
        np.testing.assert_array_equal(model.base[name], right)
    if kind == "F32":
        for name, right in arrays.items():
            np.testing.assert_array_equal(model.base[name], right)
    ids = tiny.tokens()[0]
    np.testing.assert_array_equal(model.held().logits(ids)[0], model.logits(ids)[0])


def test_the_tokenizer(tmp_path, arrays):
    path, _ = written(tmp_path / "model.gguf", "F32", arrays)
    tokenizer = load_tokenizer(path)
    assert tokenizer.encode("12ab<|end|>") == [1, 2, 11, 12]
    assert tokenizer.decode([1, 2, 12]) == "12"
    assert tokenizer.stop == {12}
    other, _ = written(tmp_path / "other.gguf", "F32", arrays, pre="tekken")
    with pytest.raises(ModelError, match="'tekken', that is not read from GGUF"):
        load_tokenizer(other)


@pytest.mark.parametrize("keep", [0, 3, 30, 600, -70_000])
def test_what_is_no_gguf_file(tmp_path, arrays, keep):
    path, _ = written(tmp_path / "model.gguf", "F32", arrays)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match="no GGUF file"):
        load(path)
    with pytest.raises(ModelError, match="no GGUF file"):
        load(tmp_path / "nowhere.gguf")
