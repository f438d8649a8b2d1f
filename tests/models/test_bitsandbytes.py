"""Weights in 4 bits: the numbers that bitsandbytes decodes, whole models, and files that contradict themselves."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from models import tiny
from models.four_bits import all_packed
from safetensors.numpy import load_file, save_file

from npl_lora.adapters import LoRAConfig, files
from npl_lora.cli import main
from npl_lora.models import ModelError, load
from npl_lora.models._bitsandbytes import decoded

RECORDED = json.loads(Path(__file__).with_name("bitsandbytes.json").read_text())["cases"]
CONFIG = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


def array(text):
    return np.frombuffer(base64.b64decode(text["bytes"]), text["dtype"]).reshape(text["shape"])


@pytest.mark.parametrize("case", RECORDED)
def test_the_numbers_are_those_that_bitsandbytes_decodes(case):
    [(name, stored, parts)] = decoded({name: array(text) for name, text in case["arrays"].items()}, None)
    assert name == "W.weight"
    assert sorted(parts) == sorted(case["arrays"])
    right = array(case["decoded"])
    assert stored.shape == right.shape
    np.testing.assert_array_equal(stored.read(), right)


def folders(tmp_path, nested=False):
    """The tiny Llama with its linear layers in 4 bits, and the same decoded."""
    plain = tiny.folder(tmp_path / "plain", dtype="float32", quantization_config=CONFIG)
    four = tiny.folder(tmp_path / "four", dtype="float32", quantization_config=CONFIG)
    stored, right = all_packed(load_file(plain / "model.safetensors"), nested)
    save_file(stored, four / "model.safetensors")
    save_file(right, plain / "model.safetensors")
    return four, plain


@pytest.mark.parametrize("nested", [False, True])
def test_a_model_in_4_bits(tmp_path, nested):
    four, plain = folders(tmp_path, nested)
    ids = tiny.tokens()[0]
    model = load(four)
    assert model.base.is_coded
    np.testing.assert_array_equal(model.logits(ids)[0], load(plain).logits(ids)[0])


def test_what_is_merged_is_decoded(tmp_path):
    four, _ = folders(tmp_path)
    tiny.with_tokenizer(four)
    model = load(four)
    adapter = model.attach(LoRAConfig(target_modules=["q_proj"], init_lora_weights=False), rng=0)
    files.save(adapter, tmp_path / "adapter")
    words = ["merge", str(four), "--adapter", str(tmp_path / "adapter"), "--out", str(tmp_path / "merged")]
    assert main([*words, "--dtype", "float32"]) == 0
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())
    ids = tiny.tokens()[0]
    right = model.logits(ids, adapter)[0]
    np.testing.assert_allclose(load(tmp_path / "merged").logits(ids)[0], right, rtol=0, atol=1e-5 * np.abs(right).max())


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"quant_method": "gptq", "bits": 4}, "of the method 'gptq', expected none, or bitsandbytes in 4 bits"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "of the method 'bitsandbytes' in 8 bits, expected"),
        ("fp8", "of the method 'fp8', expected none"),
    ],
)
def test_other_quantisations_are_refused_by_name(tmp_path, config, sentence):
    with pytest.raises(ModelError, match=sentence):
        load(tiny.folder(tmp_path / "model", quantization_config=config))


NAME = "model.layers.0.mlp.up_proj.weight"
STATE = f"{NAME}.quant_state.bitsandbytes__nf4"


def state(**changes):
    about = {"blocksize": 8, "dtype": "float32", "shape": [10, 6], **changes}
    return np.frombuffer(json.dumps(about).encode(), np.uint8)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({STATE: np.frombuffer(b"{", np.uint8)}, "its quant_state is not JSON in UTF-8"),
        ({STATE: state(shape=[10, -6])}, "has shape = .*, expected a list of positive integers"),
        ({STATE: state(shape=[10, 7])}, "has 30 numbers of uint8 in it, expected 35 bytes"),
        ({STATE: state(blocksize=0)}, "has blocksize = 0, expected a positive integer"),
        ({STATE: state(dtype="int8")}, "has dtype = 'int8', expected one of float32, float16, bfloat16"),
        (
            {f"{NAME}.absmax": np.ones(3, np.float32)},
            "has 3 numbers of float32 in .absmax, expected 8 floating numbers",
        ),
        ({f"{NAME}.absmax": np.ones(8, np.uint8)}, "has 8 numbers of uint8 in .absmax, expected 8 floating numbers"),
        ({f"{NAME}.quant_map": None}, "has nothing in .quant_map, expected 16 floating numbers"),
        ({f"{NAME}.nested_absmax": np.ones(1, np.float32)}, "has 8 numbers of float32 in .absmax, expected 8 bytes"),
        ({f"{NAME}.absmax": np.full(8, np.nan, np.float32)}, "is not finite at"),
    ],
)
def test_files_that_contradict_themselves(tmp_path, changes, sentence):
    four, _ = folders(tmp_path)
    arrays = load_file(four / "model.safetensors") | changes
    save_file({n: a for n, a in arrays.items() if a is not None}, four / "model.safetensors")
    with pytest.raises(ModelError, match=sentence):
        load(four).base.check()
