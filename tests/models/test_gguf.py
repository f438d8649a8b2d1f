"""GGUF files of all kinds of tensors that are read, with q and k permuted as llama.cpp's converter does it."""

import struct

import gguf
import numpy as np
import pytest
from models import tiny, tiny_gguf

from npl_lora.models import ModelError, load, load_tokenizer
from npl_lora.models._gguf import GGUF

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
    writer, kept = gguf.GGUFWriter(path, fields.get("arch", "llama")), {}
    writer.add_block_count(2)
    writer.add_embedding_length(256)
    writer.add_feed_forward_length(256)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_key_length(32)
    writer.add_context_length(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(fields.get("theta", 100.0))
    fields.get("more", lambda writer: None)(writer)
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
    np.testing.assert_array_equal(model.decode().logits(ids)[0], model.logits(ids)[0])


def yarn(writer):
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(4)
    writer.add_rope_scaling_yarn_beta_fast(8.0)


def linear(writer):
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(3.0)


def llama3(writer, low=1.0):
    """As llama.cpp's converter writes it for Llama 3.2: the quotients of the plain angles and the scaled ones."""
    turns = 8192 * 500000.0 ** (-np.arange(16) / 16) / (2 * np.pi)
    share = np.clip((turns - low) / (4.0 - low), 0.0, 1.0)
    writer.add_tensor("rope_freqs.weight", (1.0 / ((1.0 - share) / 32.0 + share)).astype(np.float32))


LLAMA3 = dict(rope_type="llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0)


@pytest.mark.parametrize(
    ("write", "theta", "scaling"),
    [
        (yarn, 100.0, dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=4, beta_fast=8.0)),
        (linear, 100.0, dict(rope_type="linear", factor=3.0)),
        (llama3, 500000.0, {**LLAMA3, "original_max_position_embeddings": 8192}),
    ],
)
def test_rope_is_scaled_as_in_the_folder(tmp_path, arrays, write, theta, scaling):
    path, _ = written(tmp_path / "model.gguf", "F32", arrays, theta=theta, more=write)
    model = load(path)
    folder = tiny.folder(
        tmp_path / "folder",
        dtype="float32",
        change=lambda a: a.update(arrays),
        **{**CONFIG, "rope_theta": theta, "rope_scaling": scaling},
    )
    ids = tiny.tokens()[0]
    np.testing.assert_array_equal(model.logits(ids)[0], load(folder).logits(ids)[0])
    plain, _ = written(tmp_path / "plain.gguf", "F32", arrays, theta=theta)
    assert np.any(load(plain).logits(ids)[0] != model.logits(ids)[0])


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (lambda w: llama3(w, 2.0), "has a rope_freqs.weight that is not Llama 3's"),
        (lambda w: w.add_tensor("rope_freqs.weight", np.ones(16, np.float32)), "that scales nothing"),
        (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE), "scales rope by 'longrope'"),
        (lambda w: (yarn(w), w.add_rope_scaling_attn_factors(2.0)), "has rope.scaling.attn_factor"),
    ],
)
def test_rope_that_is_scaled_otherwise(tmp_path, arrays, write, sentence):
    path, _ = written(tmp_path / "model.gguf", "F32", arrays, theta=500000.0, more=write)
    with pytest.raises(ModelError, match=sentence):
        load(path)


def test_a_template_for_conversations_with_tools(tmp_path, arrays):
    def both(writer):
        writer.add_chat_template([{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}])

    path, _ = written(tmp_path / "model.gguf", "F32", arrays, more=both)
    template = load_tokenizer(path).template
    assert [template.render([]), template.render([], more={"tools": [{}]})] == ["a", "b"]


@pytest.mark.parametrize("arch", ["gemma", "phi3", "mamba"])
def test_kinds_that_a_gguf_file_stores_otherwise(tmp_path, arrays, arch):
    path, _ = written(tmp_path / "model.gguf", "F32", arrays, arch=arch)
    with pytest.raises(ModelError, match=f"is of the kind {arch}, expected one of llama, .*: use a folder"):
        load(path)


def test_the_tokenizer(tmp_path, arrays):
    path, _ = written(tmp_path / "model.gguf", "F32", arrays)
    tokenizer = load_tokenizer(path)
    assert tokenizer.encode("12ab<|end|>") == [1, 2, 11, 12]
    assert tokenizer.decode([1, 2, 12]) == "12"
    assert tokenizer.stop == {12}
    other, _ = written(tmp_path / "other.gguf", "F32", arrays, pre="tekken")
    with pytest.raises(ModelError, match="'tekken', which is not supported in a GGUF file: use a folder"):
        load_tokenizer(other)


@pytest.mark.parametrize("keep", [0, 3, 30, 600, -70_000])
def test_what_is_no_gguf_file(tmp_path, arrays, keep):
    path, _ = written(tmp_path / "model.gguf", "F32", arrays)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"truncated|is not a GGUF file|cannot be read"):
        load(path)
    with pytest.raises(ModelError, match=r"truncated|is not a GGUF file|cannot be read"):
        load(tmp_path / "nowhere.gguf")


def edited(path, old, new, skip=0):
    """The tiny file with bytes changed behind `old`."""
    raw = tiny_gguf.written(path).read_bytes()
    at = raw.index(old) + len(old) + skip
    path.write_bytes(raw[:at] + new + raw[at + len(new) :])
    return path


HUGE = b"\xff" * 7 + b"\x3f"


@pytest.mark.parametrize(
    ("old", "skip", "new", "sentence"),
    [
        (b"GGUF", 0, b"\x09", "has GGUF version 9, expected one of \\(2, 3\\)"),
        (b"GGUF", 4, HUGE, "axes|truncated|UTF-8|twice"),  # tensors: what follows is read as one
        (b"GGUF", 12, HUGE, "truncated"),  # fields
        (b"tokenizer.ggml.token_type", 8, HUGE, "truncated"),  # numbers in an array
        (b"tokenizer.ggml.tokens", 8, HUGE, "truncated"),  # texts in an array
        (b"tokenizer.ggml.tokens", 16, HUGE, "truncated"),  # the length of a text
        (b"tokenizer.ggml.tokens", 4, b"\x09", "has a value of type 9, which is not supported"),  # arrays in an array
        (b"tokenizer.ggml.model", 0, b"\x63", "a value of type 99"),
        (b"general.alignment", 4, b"\0\0\0\0", "has an alignment that is not a number from 1 to 1,048,576"),
        (b"general.alignment", 4, b"\0\0\0\x80", "has an alignment that is not a number from 1 to 1,048,576"),
        (b"blk.0.attn_q.weight", 0, HUGE, "axes, expected at most 4"),
        (b"blk.0.attn_q.weight", 4, HUGE, "is truncated: blk.0.attn_q.weight ends at byte"),
        (b"blk.0.attn_q.weight", 20, b"\x63", "is of type 99, expected one of F32"),
        (b"blk.0.attn_q.weight", 20, b"\x08", "rows of 6, expected a multiple of 32"),
        (b"blk.0.attn_q.weight", 24, HUGE, "is truncated"),
        (b"blk.0.a", 0, b"x", "a GGUF tensor has the unknown name"),
        (b"blk.", 0, b"\xff", "a tensor whose name is not UTF-8"),
        (b"llama.block_count", 4, b"\xff\xff\xff\x7f", "num_hidden_layers = 2147483647, expected at most"),
        (b"llama.block_count", 0, b"\x06", "num_hidden_layers = 2.8"),  # a float32
    ],
)
def test_what_lies(tmp_path, old, skip, new, sentence):
    """A sentence at once, and no memory that the file has not."""
    path = edited(tmp_path / "model.gguf", old, new, skip)
    with pytest.raises(ModelError, match=sentence):
        load(path)


def test_key_value_heads_are_the_heads_where_nothing_else_is_said(tmp_path, arrays):
    """llama.cpp leaves head_count_kv out, or not, where there is one for each head: k is permuted all the same."""
    path, _ = written(tmp_path / "model.gguf", "F32", arrays)
    reader = GGUF(path)
    right = reader.weights()["model.layers.0.self_attn.k_proj.weight"]
    reader._head.fields["llama.attention.head_count"] = reader._head.fields.pop("llama.attention.head_count_kv")
    np.testing.assert_array_equal(reader.weights()["model.layers.0.self_attn.k_proj.weight"], right)


def test_a_tensor_without_numbers(tmp_path, arrays):
    """A dimension of 0 beside one that no array can have."""
    path, _ = written(tmp_path / "model.gguf", "F32", arrays)
    raw, name = bytearray(path.read_bytes()), b"token_embd.weight"
    at = raw.index(name) + len(name) + 4
    raw[at : at + 16] = struct.pack("<QQ", 0, 1 << 62)
    path.write_bytes(raw)
    with pytest.raises(ModelError, match=r"token_embd.weight has shape \(4611686018427387904, 0\), expected numbers"):
        load(path)
