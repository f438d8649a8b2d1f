"""What `inspect` says of an adapter's files: right numbers from the small factors, and every kind of damage named."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import tiny
from safetensors.numpy import load_file, save_file

from npl_lora.adapters import AdapterError, LoRAConfig, files
from npl_lora.adapters.inspection import inspect
from npl_lora.cli import main
from npl_lora.lora.spectrum import decompose, effective_rank
from npl_lora.models import load

CONFIG = LoRAConfig(
    r=3,
    lora_alpha=5,
    target_modules=["q_proj", "v_proj", "embed_tokens"],
    rank_pattern={"v_proj": 2},
    init_lora_weights=False,
)


@pytest.fixture
def adapter(tmp_path):
    model = load(tiny.folder(tmp_path / "model"))
    files.save(model.attach(CONFIG, rng=0), tmp_path / "adapter", "some/model")
    return tmp_path / "adapter"


def edit(adapter, tensors=lambda found: None, **config):
    """Change the files in place."""
    found, path = load_file(adapter / files.TENSORS), adapter / files.CONFIG
    tensors(found)
    save_file(found, adapter / files.TENSORS)
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 9), st.floats(-3, 3), st.integers(0, 99))
def test_the_decomposition_is_that_of_the_product(out, in_, r, scale, seed):
    rng = np.random.default_rng(seed)
    A, B = rng.standard_normal((r, in_)), rng.standard_normal((out, r))
    U, S, Vt = decompose(A, B, scale)
    size = abs(scale) * np.linalg.norm(A) * np.linalg.norm(B)
    k = min(r, out, in_)
    # each of the few products and decompositions is backward stable: some n eps of this size
    # and 1e-300 covers gradual underflow, for scales that are nearly 0
    tolerance = dict(rtol=0, atol=1e-14 * size * (out + in_ + r) + 1e-300)
    np.testing.assert_allclose(U * S @ Vt, scale * B @ A, **tolerance)
    np.testing.assert_allclose(S, np.linalg.svd(scale * B @ A, compute_uv=False)[:k], **tolerance)
    assert (U.shape, S.shape, Vt.shape) == ((out, k), (k,), (k, in_))


def test_the_effective_rank_is_the_entropy_of_the_spectrum():
    assert effective_rank(np.array([7.0, 0.0, 0.0])) == 1.0
    assert effective_rank(np.zeros(3)) == 0.0
    assert math.isclose(effective_rank(np.full(4, 0.3)), 4.0)
    p, q = 0.75, 0.25
    assert math.isclose(effective_rank(np.array([3.0, 1.0])), p**-p * q**-q)


def test_each_layer_has_its_rank_scale_norms_and_spectrum(adapter, tmp_path):
    model, found = load(tmp_path / "model"), inspect(adapter)
    own = model.load_adapter(adapter, np.float64)
    assert found.findings == ()
    assert {layer.path for layer in found.layers} == set(own.places)
    assert (found.method, found.rank, found.alpha, found.base_model) == ("LoRA", 3, 5, "some/model")
    assert found.parameters == sum(array.size for array in own.parameters.values())
    for layer in found.layers:
        place = own.places[layer.path]
        A, B = own.parameters[place.A], own.parameters[place.B]
        assert (layer.rank, layer.scale) == (2, 2.5) if layer.path.endswith("v_proj") else (3, 5 / 3)
        assert layer.shape == model.modules[layer.path].shape
        delta = place.scale * B @ A
        S = np.linalg.svd(delta, compute_uv=False)[: layer.rank]
        np.testing.assert_allclose(layer.singular_values, S, rtol=1e-12)
        np.testing.assert_allclose(
            (layer.norm_A, layer.norm_B, layer.norm), [np.linalg.norm(M) for M in (A, B, delta)], rtol=1e-12
        )
        assert layer.zero == ""


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
SECOND = FIRST.replace("lora_A", "lora_B")
PATH = "model.layers.0.self_attn.q_proj"


def rename(change):
    """All keys changed."""

    def edit_keys(found):
        for key in list(found):
            found[change(key)] = found.pop(key)

    return edit_keys


def put(key, array):
    return lambda found: found.update({key: array})


DAMAGE = {
    "nan": (put(FIRST, np.full((3, 6), np.nan)), {}, f"{FIRST} is not finite at [0, 0]: nan (18 of 18 numbers)"),
    "large": (put(FIRST, np.full((3, 6), 1e39)), {}, f"{FIRST} is too large for float32 at [0, 0]: 1e+39"),
    "whole": (put(FIRST, np.ones((3, 6), int)), {}, f"{FIRST} has dtype int64, expected a floating dtype"),
    "empty": (put(FIRST, np.zeros(0)), {}, f"{FIRST} is empty, (0,)"),
    "B is 0": (put(SECOND, np.zeros((16, 3))), {}, f"{PATH}: B is 0, so it never trained"),
    "A is 0": (put(FIRST, np.zeros((3, 6))), {}, f"{PATH}: A is 0, so it changes nothing"),
    "embedding": (
        put("base_model.model.model.embed_tokens.lora_embedding_A", np.zeros((3, 13))),
        {},
        "model.embed_tokens: A is 0, so it never trained",
    ),
    "lone": (lambda found: found.pop(SECOND), {}, f"{PATH} has A and no B"),
    "rank": (lambda found: None, {"r": 4}, f"{PATH} has rank 3 in its tensors, and 4 by adapter_config.json"),
    "pattern": (lambda found: None, {"rank_pattern": {}}, "v_proj has rank 2 in its tensors, and 3 by"),
    "turned": (put(FIRST, np.ones((6, 3))), {}, f"{PATH}: A (6, 3) and B (16, 3) cannot be multiplied"),
    "vector": (put(FIRST, np.ones(3)), {}, f"{PATH}: A has shape (3,), expected a matrix"),
    "no target": (
        lambda found: None,
        {"target_modules": ["q_proj", "embed_tokens"]},
        "v_proj has A and B, and is no target by adapter_config.json",
    ),
    "regular expression": (lambda found: None, {"target_modules": r".*\.[qk]_proj"}, "v_proj has A and B, and is no"),
    "no tensor": (
        lambda found: None,
        {"target_modules": ["q_proj", "v_proj", "embed_tokens", "up_proj"]},
        "target_modules has 'up_proj', and no tensor belongs to such a module",
    ),
    "not saved": (lambda found: None, {"modules_to_save": ["lm_head"]}, "modules_to_save has 'lm_head', and no tensor"),
    "dora": (lambda found: None, {"use_dora": True}, "use_dora is true, and no tensor ends in lora_magnitude_vector"),
    "magnitude": (
        put(f"base_model.model.{PATH}.lora_magnitude_vector", np.ones(16)),
        {},
        f"{PATH}.lora_magnitude_vector is there, and use_dora is not true",
    ),
    "bias": (
        put(f"base_model.model.{PATH}.lora_B.bias", np.ones(16)),
        {},
        "lora_B.bias is there, and lora_bias",
    ),
    "no prefix": (
        rename(lambda key: key.removeprefix("base_model.model.")),
        {},
        "does not begin with base_model.mod",
    ),
    "named": (rename(lambda key: key.replace(".weight", ".mine.weight")), {}, "has the adapter's name, mine, in it"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(adapter, name, capsys):
    tensors, config, says = DAMAGE[name]
    edit(adapter, tensors, **config)
    found = inspect(adapter)
    assert any(says in finding.says for finding in found.findings), found.findings
    assert main(["inspect", str(adapter)]) == 1
    assert says in capsys.readouterr().out


def test_a_byte_order_mark_is_no_fault(adapter):
    path = adapter / files.CONFIG
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert inspect(adapter).findings == ()


def test_peft_takes_the_name_default_in_a_key(adapter):
    edit(adapter, rename(lambda key: key.replace(".weight", ".default.weight")))
    assert inspect(adapter).findings == ()


def test_the_command_prints_and_writes(adapter, tmp_path, capsys):
    figures = tmp_path / "figures.json"
    assert main(["inspect", str(adapter), "--json", str(figures)]) == 0
    out = capsys.readouterr().out
    assert "r = 3, alpha = 5, init_lora_weights = false, for some/model" in out
    assert out.endswith("nothing is wrong that can be seen without the model\n")
    found = json.loads(figures.read_text())
    for layer in found["layers"]:
        assert f"{layer['path']} " in out
        assert f"{layer['effective_rank']:.2f}" in out
        assert len(layer["singular_values"]) == layer["rank"]


@pytest.mark.slow
def test_the_picture_is_one_svg_with_a_line_for_each_layer(adapter, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "spectra.svg"
    assert main(["inspect", str(adapter), "--plot", str(picture)]) == 0
    text = picture.read_text()
    assert text.startswith("<?xml")
    assert "<image" not in text  # nothing is drawn by another file
    for layer in inspect(adapter).layers:
        assert text.count(f'<g id="{layer.path}">') == 1


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda folder: (folder / files.CONFIG).unlink(), "has no adapter_config.json: expected the folder"),
        (lambda folder: (folder / files.CONFIG).write_text("["), "adapter_config.json: it is not JSON"),
        (lambda folder: edit(folder, r=0), "adapter_config.json: r is 0, expected an integer of at least 1"),
        (lambda folder: edit(folder, rank_pattern={"(v": 2}), "is no regular expression: missing )"),
        (lambda folder: edit(folder, peft_type="IA3"), "peft_type is 'IA3', expected 'LORA'"),
        (lambda folder: (folder / files.TENSORS).write_bytes(b""), "is no safetensors file"),
        (
            lambda folder: (folder / files.TENSORS).rename(folder / "adapter_model.bin"),
            "adapter_model.bin, a pickle, and no adapter_model.safetensors",
        ),
        (lambda folder: save_file({"x": np.ones(2)}, folder / files.TENSORS), "has 1 tensors and none of LoRA"),
    ],
)
def test_what_cannot_be_read_is_refused(adapter, break_it, says, capsys):
    break_it(adapter)
    with pytest.raises(AdapterError):
        inspect(adapter)
    assert main(["inspect", str(adapter)]) == 2
    assert says in capsys.readouterr().err
