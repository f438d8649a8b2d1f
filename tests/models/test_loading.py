"""A model's files: mapped and not copied, in shards, narrower than what is computed in; and refused with a sentence."""

import json

import ml_dtypes
import numpy as np
import pytest
import tokenizers
from models import tiny
from safetensors.numpy import load_file, save_file

from npl_lora.models import ModelError, load, load_tokenizer

NORM = "model.layers.1.input_layernorm.weight"


def test_what_is_stored_as_it_is_computed_in_is_not_copied(tmp_path):
    model = load(tiny.folder(tmp_path, dtype="float32"))
    W = model.base[NORM]
    assert W.dtype == np.float32
    assert not W.flags.writeable
    assert not model.base.is_coded
    base = W
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "float64"])
def test_other_dtypes_are_widened_when_asked_for(tmp_path, dtype):
    model = load(tiny.folder(tmp_path, dtype=dtype))
    assert model.base.is_coded
    right = tiny.tensors("llama", dtype)
    for name in model.base:
        assert model.base[name].dtype == np.float32
        np.testing.assert_array_equal(model.base[name], right[name].astype(np.float32))
    held = model.decode()
    ids = tiny.tokens()[0]
    np.testing.assert_array_equal(held.logits(ids)[0], model.logits(ids)[0])


def test_shards(tmp_path):
    ids = tiny.tokens()[0]
    right, _ = load(tiny.folder(tmp_path)).logits(ids)
    arrays = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names, where = list(arrays), {}
    for i, part in enumerate((names[:5], names[5:])):
        shard = f"model-{i}.safetensors"
        save_file({name: arrays[name] for name in part}, tmp_path / shard)
        where |= dict.fromkeys(part, shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    np.testing.assert_array_equal(load(tmp_path).logits(ids)[0], right)

    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(ModelError, match="No such file"):
        load(tmp_path)
    for where in ({"a": "../../secret"}, {"a": "x\0"}, {"a": "\ud800"}, {"a": 3 * [1]}, {"a": "y" * 300}, {}, []):
        index.write_text(json.dumps({"weight_map": where}))
        with pytest.raises(ModelError, match="names no shards in its folder"):
            load(tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda a: a.pop(NORM), f"the checkpoint has no tensor {NORM} of a floating dtype"),
        (lambda a: a.update({NORM: np.ones(7)}), r"has shape \(7,\), expected \(6,\) by the configuration"),
        (lambda a: a.update({NORM: np.ones(6, np.int32)}), f"the checkpoint has no tensor {NORM} of a floating dtype"),
        (lambda a: a.update({NORM: np.ones(0)}), r"has shape \(0,\), expected \(6,\)"),
        (lambda a: a.update({"lm_head.weight": np.ones((12, 6))}), r"lm_head.weight has shape \(12, 6\)"),
    ],
)
def test_weights_that_contradict_the_configuration(tmp_path, change, sentence):
    with pytest.raises(ModelError, match=sentence):
        load(tiny.folder(tmp_path, change=change))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (dict(model_type="mamba"), "model_type is 'mamba', expected one of llama"),
        (dict(hidden_size=0), "hidden_size = 0, expected an integer of at least 1"),
        (dict(num_hidden_layers="2"), "num_hidden_layers = '2'"),
        (dict(num_hidden_layers=True), "num_hidden_layers = True"),
        (dict(num_hidden_layers=10**9), "num_hidden_layers = 1000000000, expected at most 65,536"),
        (dict(num_hidden_layers=60_000), "has 60000 layers, the checkpoint 21 tensors"),
        (dict(head_dim=10**12), "head_dim = 1000000000000, expected at most 65,536"),
        (dict(hidden_size=10**40), "hidden_size = 1000"),
        (dict(rms_norm_eps=float("nan")), "rms_norm_eps = nan, expected a number above 0"),
        (dict(rms_norm_eps=float("inf")), "rms_norm_eps = inf"),
        (dict(rms_norm_eps=10**400), r"rms_norm_eps = 10+\.\.\., expected a number"),
        (dict(rope_theta=1e-320), "rope_theta"),
        (dict(rope_theta=True), "rope_theta = True"),
        (dict(rope_scaling=[1]), r"has \[1\] for rope, expected an object"),
        (dict(rope_scaling={**tiny.LLAMA3, "high_freq_factor": 1.0}), "expected low < high"),
        (
            dict(model_type="qwen2", use_sliding_window=True, sliding_window=2, max_window_layers="x"),
            "max_window_layers",
        ),
        (dict(hidden_act="\x1b[31m\n" * 50), r"hidden_act = '\\x1b.{1,60}, expected one of silu"),
        (dict(num_hidden_layers=3), "the checkpoint has no tensor model.layers.2"),
        (dict(num_attention_heads=3), "3 heads on 2 key/value heads"),
        (dict(head_dim=5), "of size 5, expected a multiple, and an even size"),
        (dict(hidden_act="relu"), "hidden_act = 'relu', expected one of silu"),
        (dict(rope_scaling={"rope_type": "own"}), "rope_type = 'own', expected one of default, linear"),
        (
            dict(rope_scaling={"rope_type": "longrope", "short_factor": [1]}),
            r"short_factor = \[1\], expected 2 numbers",
        ),
        (dict(rope_scaling={"rope_type": "yarn", "beta_fast": "x"}), "beta_fast = 'x'"),
        (dict(rope_scaling={"rope_type": "dynamic"}), "factor"),
        (dict(partial_rotary_factor=0.5), "expected rope on all features of a head"),
        (dict(rope_scaling={"rope_type": "linear"}), "factor"),
        (dict(rms_norm_eps="small"), "rms_norm_eps"),
        (dict(layer_types=["full_attention"], sliding_window=3), "layer_types"),
    ],
)
def test_configurations_that_cannot_be_had(tmp_path, fields, sentence):
    with pytest.raises(ModelError, match=sentence):
        load(tiny.folder(tmp_path, **fields))


def test_no_model(tmp_path):
    with pytest.raises(ModelError, match="No such file"):
        load(tmp_path)
    with pytest.raises(ModelError, match=r"neither a folder nor a \.gguf file"):
        load(tmp_path / "model.bin")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="has neither model"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("", "is no tokenizer"), ("{}", "is no tokenizer"), ("[" * 10_000, "is no tokenizer"), (None, "has no tokenizer")],
)
def test_a_tokenizer_that_is_none(tmp_path, text, sentence):
    folder = tiny.folder(tmp_path)
    if text is not None:
        (folder / "tokenizer.json").write_text(text)
    with pytest.raises(ModelError, match=sentence):
        load_tokenizer(folder)


@pytest.mark.parametrize("end", ["</s>", [2, "x"], True, -1])
def test_an_end_that_is_no_token(tmp_path, end):
    folder = tiny.folder(tmp_path, eos_token_id=end)
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"x": 0}, unk_token="x"))
    inner.save(str(folder / "tokenizer.json"))
    with pytest.raises(ModelError, match=r"eos_token_id = .*, expected tokens"):
        load_tokenizer(folder)


def test_what_ends_a_turn_may_stand_in_generation_config(tmp_path):
    """A text in training still ends with what config.json has."""
    folder = tiny.with_tokenizer(tiny.folder(tmp_path, eos_token_id=12))
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 12]}')
    found = load_tokenizer(folder)
    assert (found.stop, found.end) == ({7, 12}, 12)
    (folder / "generation_config.json").write_text('{"eos_token_id": "</s>"}')
    with pytest.raises(ModelError, match=r"generation_config.json has eos_token_id = '</s>', expected tokens"):
        load_tokenizer(folder)


def test_more_positions_than_the_model_has(tmp_path):
    with pytest.raises(ValueError, match="17 positions, expected at most 16"):
        load(tiny.folder(tmp_path)).logits(np.zeros((1, 17), np.int64))
