"""DoRA and lora_bias in a model: the layer that they make, written out here, in the model's place gives the same."""

import numpy as np
import pytest
from models import tiny

from npl_lora.adapters import ConfigError, LoRAConfig, files
from npl_lora.models import load

IDS, LABELS, MASK = tiny.tokens()
ON = {
    "llama": dict(target_modules=["q_proj", "down_proj", "lm_head"]),
    "llama-tied": dict(target_modules=["lm_head", "up_proj"], use_rslora=True),
    "gpt2": dict(target_modules=["c_attn", "c_fc"], rank_pattern={"c_fc": 3}),
    "qwen2": dict(target_modules=["k_proj", "v_proj"]),
}


def attached(folder, kind, **config):
    """A model and a random adapter on it, in float64."""
    model = load(tiny.folder(folder / "model", kind), dtype=np.float64)
    adapter = model.attach(LoRAConfig(r=2, lora_alpha=5, **config), rng=1)
    rng = np.random.default_rng(3)
    drawn = {name: rng.standard_normal(array.shape) for name, array in adapter.parameters.items()}
    return model, adapter.with_parameters(drawn)


def by_hand(model, adapter):
    """{name: array}: W with s B A and rows of the lengths m, and b with s b_B."""
    written, p = {}, adapter.parameters
    for path, place in adapter.places.items():
        turned = model.modules[path].transposed
        W = model.base[model.modules[path].shares or f"{path}.weight"]
        V = (W.T if turned else W) + place.scale * p[place.B] @ p[place.A]
        if f"{path}.lora_magnitude_vector" in p:
            V = np.stack([m * row / np.linalg.norm(row) for m, row in zip(p[place.m], V, strict=True)])
        written[f"{path}.weight"] = np.ascontiguousarray(V.T if turned else V)
        if f"{path}.lora_B.bias" in p:
            written[f"{path}.bias"] = model.base[f"{path}.bias"] + place.scale * p[place.bias]
    return written


@pytest.mark.parametrize(
    ("kind", "field"), [*((kind, "use_dora") for kind in ON), ("qwen2", "lora_bias"), ("gpt2", "lora_bias")]
)
def test_the_layer_that_it_makes(tmp_path, kind, field):
    model, adapter = attached(tmp_path, kind, **ON[kind], **{field: True})
    prefix = "transformer." if kind == "gpt2" else ""
    arrays = {name.removeprefix(prefix): array for name, array in by_hand(model, adapter).items()}
    other = load(tiny.folder(tmp_path / "other", kind, change=lambda tensors: tensors.update(arrays)), dtype=np.float64)
    right, _ = other.logits(IDS)
    np.testing.assert_allclose(model.logits(IDS, adapter)[0], right, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(model.merged(adapter).logits(IDS)[0], right, rtol=1e-11, atol=1e-11)
    files.save(adapter, tmp_path / "adapter")
    np.testing.assert_array_equal(
        model.logits(IDS, model.load_adapter(tmp_path / "adapter"))[0], model.logits(IDS, adapter)[0]
    )


@pytest.mark.parametrize(("kind", "field"), [("llama-tied", "use_dora"), ("gpt2", "use_dora"), ("gpt2", "lora_bias")])
def test_gradients_of_m_and_of_the_bias(tmp_path, kind, field):
    """Of these the loss is a smooth function even where the norm is held constant: central differences, whose error is
    near u^(2/3) = 4e-11 of the loss over a step of 6e-6, and so below 1e-7 here."""
    model, adapter = attached(tmp_path, kind, **ON[kind], **{field: True})
    ends = ("lora_magnitude_vector", "lora_B.bias")
    names = [name for name in adapter.parameters if name.endswith(ends)]
    assert len(names) == len(adapter.places)
    grads = model.loss(IDS, LABELS, adapter, key_mask=MASK)[1](1.0)
    rng, h = np.random.default_rng(0), 6e-6
    direction = {name: rng.standard_normal(adapter.parameters[name].shape) for name in names}

    def loss(step):
        moved = {name: adapter.parameters[name] + step * direction[name] for name in names}
        return float(model.loss(IDS, LABELS, adapter.with_parameters(adapter.parameters | moved), key_mask=MASK)[0])

    slope = sum(float(np.sum(grads[name] * direction[name])) for name in names)
    assert abs((loss(h) - loss(-h)) / (2 * h) - slope) < 1e-7 * max(1.0, abs(slope))


@pytest.mark.parametrize("field", ["use_dora", "lora_bias"])
@pytest.mark.parametrize("kind", ON)
def test_a_new_one_changes_nothing(tmp_path, kind, field):
    model = load(tiny.folder(tmp_path, kind), dtype=np.float64)
    adapter = model.attach(LoRAConfig(r=2, **ON[kind], **{field: True}), rng=0)
    np.testing.assert_allclose(model.logits(IDS, adapter)[0], model.logits(IDS)[0], rtol=1e-12, atol=1e-12)


def test_what_neither_has(tmp_path):
    model, adapter = attached(tmp_path, "llama", target_modules=["q_proj"], lora_bias=True)
    with pytest.raises(ConfigError, match="q_proj has no bias to merge it into; PEFT cannot merge"):
        model.merged(adapter)
    dora = LoRAConfig(target_modules=["q_proj"], use_dora=True)
    with pytest.raises(ConfigError, match="a merged DoRA cannot be taken out"):
        model.merged(model.attach(dora), sign=-1.0)
    with pytest.raises(ConfigError, match="lora_dropout with use_dora is not supported here: set lora_dropout to 0"):
        model.attach(LoRAConfig(target_modules=["q_proj"], use_dora=True, lora_dropout=0.1))
    with pytest.raises(ConfigError, match="lora_dropout with use_dora is not supported here: train with"):
        model.loss(IDS, LABELS, model.attach(dora), masks=lambda path, x: np.ones_like(x))
