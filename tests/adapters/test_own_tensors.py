"""An adapter that brings tensors of the model: trained in full, or standing in place of the model's. A model that has
these tensors gives the same logits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import tiny
from safetensors.numpy import load_file, save_file

from npl_lora.adapters import AdapterError, ConfigError, LoRAConfig, files
from npl_lora.models import load

IDS = tiny.tokens()[0]
TABLE = "model.embed_tokens.weight"


def shifted(arrays, seed=7):
    """The same arrays, each changed by noise."""
    rng = np.random.default_rng(seed)
    return {name: array + 0.3 * rng.standard_normal(array.shape) for name, array in arrays.items()}


def attached(folder, kind="llama", **config):
    """A model in float64, a random adapter on it, and the folder that it was saved in."""
    model = load(tiny.folder(folder / "model", kind), dtype=np.float64)
    adapter = model.attach(LoRAConfig(**{"r": 2, "lora_alpha": 5, "init_lora_weights": False, **config}), rng=1)
    adapter = adapter.with_parameters(shifted(adapter.parameters))
    files.save(adapter, folder / "adapter")
    return model, adapter, folder / "adapter"


def with_own(folder, kind, arrays, **config):
    """A model with other tensors."""
    return load(
        tiny.folder(folder / "other", kind, change=lambda tensors: tensors.update(arrays), **config), np.float64
    )


def add(folder, arrays):
    tensors = load_file(folder / files.TENSORS)
    save_file(tensors | {f"base_model.model.{n}": array for n, array in arrays.items()}, folder / files.TENSORS)


SAVED = {
    "llama": (["norm"], 5),
    "qwen3": (["q_norm", "input_layernorm"], 4),
    "gemma3": (["pre_feedforward_layernorm", "lm_head"], 3),
    "gpt2": (["wpe", "ln_1", "ln_f"], 7),
}


@pytest.mark.parametrize("kind", SAVED)
def test_norms_and_tables_that_are_trained_in_full(tmp_path, kind):
    names, count = SAVED[kind]
    targets = ["c_attn"] if kind == "gpt2" else ["q_proj"]
    model, adapter, folder = attached(tmp_path, kind, target_modules=targets, modules_to_save=names)
    read = model.load_adapter(folder)
    whole = {name: array for name, array in read.parameters.items() if "lora" not in name}
    assert len(whole) == count
    bare = adapter.with_parameters({name: a for name, a in adapter.parameters.items() if "lora" in name})
    prefix = "transformer." if kind == "gpt2" else ""
    other = with_own(tmp_path, kind, {name.removeprefix(prefix): array for name, array in whole.items()})
    right = other.logits(IDS, bare)[0]
    np.testing.assert_allclose(model.logits(IDS, read)[0], right, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(model.merged(read).logits(IDS)[0], right, rtol=1e-12, atol=1e-12)


@settings(max_examples=10)
@given(
    names=st.sets(st.sampled_from(["model.norm.weight", "model.layers.1.mlp.up_proj.weight", TABLE, "lm_head.weight"]))
)
def test_tensors_that_stand_in_place_of_the_model_s(tmp_path_factory, names):
    tmp_path = tmp_path_factory.mktemp("standing")
    model, adapter, folder = attached(tmp_path, target_modules=["q_proj"])
    own = shifted({name: model.base[name] for name in names})
    add(folder, own | {"model.layers.0.input_layernorm.weight": model.base["model.layers.0.input_layernorm.weight"]})
    read = model.load_adapter(folder)
    assert read.parameters.keys() == adapter.parameters.keys()  # they are not trained
    assert read.frozen.keys() == names  # what the model has anyway is left out
    right = with_own(tmp_path, "llama", own).logits(IDS, adapter)[0]
    np.testing.assert_allclose(model.logits(IDS, read)[0], right, rtol=1e-12, atol=1e-12)
    files.save(read, tmp_path / "again")
    np.testing.assert_array_equal(
        model.logits(IDS, model.load_adapter(tmp_path / "again"))[0], model.logits(IDS, read)[0]
    )


TIED = {
    "head": dict(target_modules=["lm_head", "q_proj"]),
    "both": dict(target_modules=["lm_head", "embed_tokens"], use_rslora=True),
    "saved": dict(target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "crossed": dict(target_modules=["lm_head"], modules_to_save=["embed_tokens"]),
}


@pytest.mark.parametrize("case", TIED)
def test_the_output_layer_of_a_tied_model(tmp_path, case):
    """The same adapter on a model whose output layer has that table of its own."""
    model, _, folder = attached(tmp_path, "llama-tied", **TIED[case])
    apart = with_own(tmp_path, "llama", dict(model.base) | {"lm_head.weight": model.base[TABLE]})
    adapters = [one.load_adapter(folder) for one in (model, apart)]
    right, _ = apart.logits(IDS, adapters[1])
    np.testing.assert_allclose(model.logits(IDS, adapters[0])[0], right, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(model.merged(adapters[0]).logits(IDS)[0], right, rtol=1e-12, atol=1e-12)
    ids, labels, mask = tiny.tokens()
    grads = [
        one.loss(ids, labels, adapter, key_mask=mask)[1](1.0)
        for one, adapter in zip((model, apart), adapters, strict=True)
    ]
    assert grads[0].keys() == grads[1].keys() == adapters[0].parameters.keys()
    for name, gradient in grads[0].items():
        np.testing.assert_allclose(gradient, grads[1][name], rtol=1e-10, atol=1e-13, err_msg=name)


def test_ensure_weight_tying_puts_an_adapter_on_both(tmp_path):
    model, adapter, folder = attached(tmp_path, "llama-tied", target_modules=["lm_head", "embed_tokens"])
    config = (folder / files.CONFIG).read_text()
    (folder / files.CONFIG).write_text(
        config.replace('"lm_head",', "").replace('"r":', '"ensure_weight_tying": true, "r":')
    )
    read = model.load_adapter(folder)
    assert read.config.target_modules == ("embed_tokens",)
    assert read.places == adapter.places
    np.testing.assert_array_equal(model.logits(IDS, read)[0], model.logits(IDS, adapter)[0])
    with pytest.raises(ConfigError, match="ensure_weight_tying is true: not supported here in training"):
        model.attach(LoRAConfig(other={"ensure_weight_tying": True}))


@pytest.mark.parametrize("rows", [9, 17])
def test_a_resized_vocabulary(tmp_path, rows):
    model, adapter, folder = attached(tmp_path, target_modules=["q_proj"])
    rng = np.random.default_rng(2)
    own = {name: rng.standard_normal((rows, 6)) for name in (TABLE, "lm_head.weight")}
    add(folder, own)
    read, ids = model.load_adapter(folder), IDS % 9
    right = with_own(tmp_path, "llama", own, vocab_size=rows).logits(ids, adapter)[0]
    np.testing.assert_allclose(model.logits(ids, read)[0], right, rtol=1e-12, atol=1e-12)
    merged = model.merged(read)
    assert merged.about["vocab_size"] == merged.config.vocabulary == rows
    np.testing.assert_allclose(merged.logits(ids)[0], right, rtol=1e-12, atol=1e-12)


def test_one_resized_table_of_two(tmp_path):
    model, _, folder = attached(tmp_path, target_modules=["q_proj"])
    add(folder, {TABLE: np.ones((17, 6))})
    sentence = r"embed_tokens 17, lm_head 13\).* save_pretrained\(FOLDER, save_embedding_layers=True\)"
    with pytest.raises(AdapterError, match=sentence):
        model.load_adapter(folder)
