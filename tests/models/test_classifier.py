"""A classifier: every gradient by complex step, its head, its features, its files, and what does not fit."""

import numpy as np
import pytest
from light import light
from models import tiny
from models.test_gradients import complex_step

from npl_lora.adapters import AdapterError, ConfigError, Full, LoRA, LoRAConfig, files
from npl_lora.models import Classifier, ModelError, load, load_classifier
from npl_lora.models._weights import weights_of

EVERYWHERE = LoRAConfig(r=2, lora_alpha=3, use_rslora=True, target_modules="all-linear", init_lora_weights=False)
WITH_EMBEDDING = LoRAConfig(
    r=2, lora_alpha=5, target_modules=r".*\.(\w+_embeddings|intermediate\.dense)", init_lora_weights=False, bias="all"
)
POOLINGS = ("mean", "pooler")
LAST = "bert.encoder.layer.1."


def tiny_classifier(path, kind="bert", pooling=None, dtype=np.float64, **how):
    return load_classifier(tiny.folder(path, kind, **how), tiny.CLASSES, dtype=dtype, pooling=pooling)


def loss_with(model, adapter, name, value, batch):
    """The loss with one array replaced, wherever it lies."""
    ids, labels, mask = batch
    if name in adapter.parameters:
        adapter = adapter.with_parameters({**adapter.parameters, name: value})
    else:
        base = weights_of({**model.base, name: value}, np.complex128)
        model = Classifier(model.about, base, model.classes, model.pooling)
    return model.loss(ids, labels, adapter, key_mask=mask, wrt=())[0]


def check_gradients(model, adapter, wrt):
    batch = ids, labels, mask = tiny.texts()
    _, pullback = model.loss(ids, labels, adapter, key_mask=mask, wrt=wrt)
    grads = pullback(1.0)
    for name in wrt:
        value = adapter.parameters[name] if name in adapter.parameters else model.base[name]
        right = complex_step(lambda v, name=name: loss_with(model, adapter, name, v, batch), value)
        # The key's bias moves all of a query's scores alike: its gradient is 0 but for rounding.
        assert np.linalg.norm(grads[name] - right) <= 1e-12 * max(np.linalg.norm(right), 1e-3), name


@pytest.mark.parametrize("pooling", light(POOLINGS))
def test_every_gradient_of_an_adapter(tmp_path, pooling):
    model = tiny_classifier(tmp_path, pooling=pooling)
    adapter = model.attach(EVERYWHERE, rng=1)
    assert {"classifier.weight", "classifier.bias"} <= adapter.parameters.keys()
    check_gradients(model, adapter, tuple(adapter.parameters))


@pytest.mark.slow
@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_gradient_of_an_adapter_and_of_the_model(tmp_path, pooling):
    model = tiny_classifier(tmp_path, pooling=pooling)
    adapter = model.attach(WITH_EMBEDDING, rng=1)
    check_gradients(model, adapter, tuple(dict.fromkeys((*adapter.parameters, *model.base))))


@pytest.mark.slow
@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_gradient_of_full_fine_tuning(tmp_path, pooling):
    model = tiny_classifier(tmp_path, pooling=pooling)
    everything = model.full(rng=1)
    assert everything.parameters.keys() == {*model.base, "classifier.weight", "classifier.bias"}
    check_gradients(model, everything, tuple(everything.parameters))


def test_full_fine_tuning_and_the_adapter_are_asked_for_the_same_numbers(tmp_path):
    """The gradient of W, where it is trained and where it is only asked for."""
    model, (ids, labels, mask) = tiny_classifier(tmp_path), tiny.texts()
    everything = model.full(rng=1)
    head = model.full(["classifier"], rng=1)
    assert head.parameters.keys() == {"classifier.weight", "classifier.bias"}
    names = tuple(model.base)
    grads = model.loss(ids, labels, everything, key_mask=mask)[1](1.0)
    asked = model.loss(ids, labels, head, key_mask=mask, wrt=names)[1](1.0)
    for name in names:
        np.testing.assert_array_equal(grads[name], asked[name])
    np.testing.assert_array_equal(
        grads["classifier.weight"], model.loss(ids, labels, head, key_mask=mask)[1](1.0)["classifier.weight"]
    )


def test_recomputation_gives_the_same_bits(tmp_path):
    model = tiny_classifier(tmp_path, dtype=np.float32)
    adapter, (ids, labels, mask) = model.attach(EVERYWHERE, rng=1), tiny.texts()
    results = [model.loss(ids, labels, adapter, key_mask=mask, recompute=recompute) for recompute in (False, True)]
    assert results[0][0] == results[1][0]
    again = results[1][1](1.0)
    for name, gradient in results[0][1](1.0).items():
        assert gradient.dtype == np.float32
        np.testing.assert_array_equal(gradient, again[name])


@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_changes_nothing(tmp_path, pooling):
    """A text is worth the same alone and beside longer ones, whatever stands in its padding."""
    model = tiny_classifier(tmp_path, pooling=pooling)
    adapter, (ids, _, mask) = model.attach(EVERYWHERE, rng=1), tiny.texts()
    together, _ = model.scores(ids, adapter, key_mask=mask)
    other, _ = model.scores(np.where(mask, ids, 7), adapter, key_mask=mask)
    for i, length in enumerate(mask.sum(axis=1)):
        alone, _ = model.scores(ids[i : i + 1, :length], adapter)
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(other[i], alone[0], rtol=1e-12, atol=1e-13)


def test_scores_and_loss_are_of_the_same_model(tmp_path):
    model, (ids, labels, mask) = tiny_classifier(tmp_path), tiny.texts()
    adapter = model.attach(EVERYWHERE, rng=1)
    logits, pullback = model.scores(ids, adapter, key_mask=mask)
    assert logits.shape == (4, 3)
    assert set(pullback.inputs) - set(pullback.frozen) == adapter.parameters.keys()
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    counted = labels != -100
    loss, of_loss = model.loss(ids, labels, adapter, key_mask=mask)
    np.testing.assert_allclose(loss, -np.mean(np.log(p[counted, labels[counted]])), rtol=1e-13)
    d = np.where(counted[:, None], p - (labels[:, None] == np.arange(3)), 0) / counted.sum()
    grads, right = of_loss(1.0), pullback(d)
    for name in grads:
        np.testing.assert_allclose(grads[name], right[name], rtol=1e-9, atol=1e-14)


def test_micro_batches_add_up_to_the_batch(tmp_path):
    model, (ids, labels, mask) = tiny_classifier(tmp_path), tiny.texts()
    adapter = model.attach(EVERYWHERE, rng=1)
    loss, pullback = model.loss(ids, labels, adapter, key_mask=mask)
    parts = [model.loss(ids[i : i + 2], labels[i : i + 2], adapter, key_mask=mask[i : i + 2], count=3) for i in (0, 2)]
    np.testing.assert_allclose(sum(part for part, _ in parts), loss, rtol=1e-13)
    grads, halves = pullback(1.0), [p(1.0) for _, p in parts]
    for name in grads:
        np.testing.assert_allclose(halves[0][name] + halves[1][name], grads[name], rtol=1e-9, atol=1e-13)


def test_a_new_head_is_small_random_and_the_seed_s(tmp_path):
    model = tiny_classifier(tmp_path, hidden_size=6, initializer_range=0.5)
    first, again, other = (model.attach(rng=seed).parameters for seed in (1, 1, 2))
    np.testing.assert_array_equal(first["classifier.weight"], again["classifier.weight"])
    assert np.any(first["classifier.weight"] != other["classifier.weight"])
    drawn = np.stack([model.attach(rng=seed).parameters["classifier.weight"] for seed in range(300)])
    # 5,400 draws of N(0, 0.5^2): their mean is within 0.5 / sqrt(5400) of 0, their spread within 0.5 / sqrt(10800)
    assert abs(drawn.mean()) < 5 * 0.5 / 5400**0.5
    assert abs(drawn.std() - 0.5) < 5 * 0.5 / 10800**0.5
    assert not first["classifier.bias"].any()


def test_a_head_in_the_checkpoint_is_where_training_begins(tmp_path):
    def with_head(arrays):
        arrays |= {"classifier.weight": np.arange(18.0).reshape(3, 6), "classifier.bias": np.array([1.0, -1.0, 2.0])}

    model, (ids, _, mask) = tiny_classifier(tmp_path, change=with_head), tiny.texts()
    adapter = model.attach(rng=1)
    np.testing.assert_array_equal(adapter.parameters["classifier.weight"], np.arange(18.0).reshape(3, 6))
    np.testing.assert_array_equal(model.scores(ids, key_mask=mask)[0], model.scores(ids, adapter, key_mask=mask)[0])
    with pytest.raises(ModelError, match=r"classifier.weight has shape \(3, 6\), expected \(2, 6\) for 2 classes"):
        load_classifier(tmp_path, ["no", "yes"])


@pytest.mark.parametrize("kind", tiny.ENCODERS)
def test_names_of_several_ages_are_the_same_model(tmp_path, kind):
    model, (ids, _, mask) = tiny_classifier(tmp_path, kind, pooling="pooler"), tiny.texts()
    right = tiny_classifier(tmp_path / "right", pooling="pooler")
    right = Classifier(right.about, weights_of(dict(model.base), np.float64), tiny.CLASSES)
    assert f"{LAST}output.LayerNorm.weight" in model.base
    assert set(model.base) == set(right.base)
    assert "cls.predictions.bias" not in model.base
    adapter = model.attach(EVERYWHERE, rng=1)
    np.testing.assert_array_equal(
        model.scores(ids, adapter, key_mask=mask)[0], right.scores(ids, adapter, key_mask=mask)[0]
    )


def test_the_folder_says_what_the_features_are(tmp_path):
    assert tiny_classifier(tmp_path).pooling == "pooler"
    tiny.pooled_by_mean(tmp_path)
    model = load_classifier(tmp_path, tiny.CLASSES)
    assert model.pooling == "mean"
    assert "bert.pooler.dense" not in model.modules
    assert "bert.pooler.dense.weight" not in model.base
    assert load_classifier(tmp_path, tiny.CLASSES, pooling="pooler").pooling == "pooler"
    about = tmp_path / "1_Pooling" / "config.json"
    for text, sentence in [
        ('{"pooling_mode_cls_token": true}', "has pooling_mode_cls_token, expected pooling_mode_mean_tokens"),
        ("{}", "has no pooling mode"),
        ("[", "not JSON"),
    ]:
        about.write_text(text)
        with pytest.raises(ModelError, match=sentence):
            load_classifier(tmp_path, tiny.CLASSES)


@pytest.mark.parametrize("bias", ["none", "all", "lora_only"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_round_trip(tmp_path, pooling, bias):
    model = tiny_classifier(tmp_path / "model", pooling=pooling)
    adapter = model.attach(LoRAConfig(r=2, bias=bias, init_lora_weights=False), rng=1)
    assert adapter.config.target_modules == ("query", "value")
    assert adapter.config.modules_to_save == ("classifier",)
    assert adapter.config.other["task_type"] == "SEQ_CLS"
    files.save(adapter, tmp_path / "adapter")
    read = model.load_adapter(tmp_path / "adapter")
    assert read.config == adapter.config
    assert read.parameters.keys() == adapter.parameters.keys()
    for name, array in adapter.parameters.items():
        np.testing.assert_array_equal(read.parameters[name], array)


def test_an_adapter_without_a_head(tmp_path):
    """One that PEFT made of the encoder alone, for one, has nothing to say of classes."""
    model, (ids, _, _) = tiny_classifier(tmp_path / "model"), tiny.texts()
    adapter = model.attach(rng=1)
    config = LoRAConfig.from_json({**adapter.config.as_json(), "modules_to_save": None})
    kept = {name: array for name, array in adapter.parameters.items() if not name.startswith("classifier")}
    files.save(LoRA(config, kept, adapter.places), tmp_path / "adapter")
    with pytest.raises(AdapterError, match=r"has no classifier, and the model's checkpoint has none either"):
        model.load_adapter(tmp_path / "adapter")
    with pytest.raises(ValueError, match="the checkpoint has no classifier, expected an adapter that brings one"):
        model.scores(ids)


@pytest.mark.parametrize("config", [EVERYWHERE, WITH_EMBEDDING], ids=["linear", "embedding"])
def test_merging(tmp_path, config):
    model, (ids, _, mask) = tiny_classifier(tmp_path), tiny.texts()
    adapter = model.attach(config, rng=1)
    merged = model.merged(adapter)
    assert (merged.classes, merged.pooling) == (model.classes, model.pooling)
    right, _ = model.scores(ids, adapter, key_mask=mask)
    np.testing.assert_allclose(merged.scores(ids, key_mask=mask)[0], right, rtol=1e-10, atol=1e-12)
    everything = model.full(rng=1)
    np.testing.assert_array_equal(
        model.merged(everything).scores(ids, key_mask=mask)[0], model.scores(ids, everything, key_mask=mask)[0]
    )


def test_narrow_weights_are_widened(tmp_path):
    model, (ids, _, mask) = tiny_classifier(tmp_path, dtype=np.float32, pooling="mean"), tiny.texts()
    assert model.base.is_coded  # float64 in the file
    adapter = model.attach(rng=1)
    assert adapter.parameters["classifier.weight"].dtype == np.float32
    np.testing.assert_array_equal(
        model.decode().scores(ids, adapter, key_mask=mask)[0], model.scores(ids, adapter, key_mask=mask)[0]
    )


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (dict(model_type="roberta"), "model_type is 'roberta', expected one of bert"),
        (dict(num_attention_heads=4), "hidden_size = 6 and num_attention_heads = 4, expected a multiple"),
        (dict(hidden_act="relu"), "hidden_act = 'relu', expected one of gelu"),
        (dict(position_embedding_type="relative_key"), "'relative_key', expected one of absolute"),
        (dict(is_decoder=True), "is_decoder = true"),
        (dict(type_vocab_size=0), "type_vocab_size = 0"),
        (dict(max_position_embeddings=17), r"position_embeddings.weight has shape \(16, 6\), expected \(17, 6\)"),
    ],
)
def test_configurations_that_cannot_be_had(tmp_path, fields, sentence):
    with pytest.raises(ModelError, match=sentence):
        tiny_classifier(tmp_path, **fields)


def test_what_does_not_fit(tmp_path):
    model, (ids, _, _) = tiny_classifier(tmp_path), tiny.texts()
    adapter = model.attach(rng=1)
    for classes in ("no", ["no"], ["no", "no"]):
        with pytest.raises(ValueError, match="expected at least two different names"):
            load_classifier(tmp_path, classes)
    with pytest.raises(ValueError, match="pooling is 'max', expected one of mean, pooler"):
        load_classifier(tmp_path, tiny.CLASSES, pooling="max")
    with pytest.raises(ValueError, match="17 positions, expected at most 16"):
        model.scores(np.zeros((1, 17), np.int64), adapter)
    with pytest.raises(ValueError, match="labels has values from 0 to 3, expected 0 <= labels < 3"):
        model.loss(ids, np.array([0, 1, 2, 3]), adapter)
    with pytest.raises(ValueError, match="labels has shape"):
        model.loss(ids, ids, adapter)
    with pytest.raises(ConfigError, match="modules_to_save has 'nothing'"):
        model.full(["nothing"])
    with pytest.raises(ConfigError, match="modules is the string 'classifier'"):
        model.full("classifier")
    with pytest.raises(
        ModelError,
        match=r"is a BERT, which classifies texts and generates none: use load_classifier, or data in a \.csv$",
    ):
        load(tmp_path)
    with pytest.raises(ModelError, match=r"lacks bert.pooler.dense.weight, which pooling 'pooler' needs"):
        tiny_classifier(tmp_path / "no pooler", change=lambda arrays: arrays.pop("bert.pooler.dense.weight"))


def test_full_fine_tuning_says_what_it_is(tmp_path):
    model = tiny_classifier(tmp_path, pooling="mean")
    everything = model.full(rng=1)
    assert isinstance(everything, Full)
    assert not isinstance(everything, LoRA)
    assert isinstance(everything.with_parameters(everything.parameters), Full)
    assert repr(model.full(["classifier"])) == "Full(2 tensors, 21 parameters)"
    assert "tensors, " in repr(model)


DECODERS = ("llama", "qwen2", "gemma3", "phi3", "gpt2")
ALL_LINEAR = LoRAConfig(r=2, lora_alpha=5, target_modules="all-linear", init_lora_weights=False)


def decoder(tmp_path, kind, dtype=np.float64):
    return load_classifier(tiny.folder(tmp_path / "model", kind), tiny.CLASSES, dtype=dtype)


@pytest.mark.parametrize("kind", DECODERS)
def test_a_language_model_classifies_by_its_last_token(tmp_path, kind):
    model, (ids, _, mask) = decoder(tmp_path, kind), tiny.texts()
    adapter = model.attach(ALL_LINEAR, rng=1)
    assert "score.weight" in adapter.parameters
    assert "score.bias" not in adapter.parameters
    assert not [path for path in adapter.places if path.startswith("lm_head")]
    together, _ = model.scores(np.where(mask, ids, 7), adapter, key_mask=mask)
    for i, length in enumerate(mask.sum(axis=1)):
        np.testing.assert_allclose(
            together[i], model.scores(ids[i : i + 1, :length], adapter)[0][0], rtol=1e-11, atol=1e-12
        )
    changed = np.array(ids)
    changed[:, 0] = (ids[:, 0] + 1) % 13  # the last token has seen the first
    assert np.all(np.any(model.scores(changed, adapter, key_mask=mask)[0] != together, axis=1))
    merged = model.merged(adapter).scores(ids, key_mask=mask)[0]
    np.testing.assert_allclose(merged, together, rtol=1e-10, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DECODERS)
def test_every_gradient_of_a_language_model_that_classifies(tmp_path, kind):
    model = decoder(tmp_path, kind)
    adapter = model.attach(ALL_LINEAR, rng=1)
    check_gradients(model, adapter, tuple(adapter.parameters))


def test_the_pooling_follows_from_the_kind(tmp_path):
    folder = tiny.folder(tmp_path / "model")
    with pytest.raises(ValueError, match="pooling is 'mean', expected 'last' for a language model, and for that alone"):
        load_classifier(folder, tiny.CLASSES, pooling="mean")
    with pytest.raises(ValueError, match="pooling is 'last', expected 'last' for a language model, and for that alone"):
        tiny_classifier(tmp_path / "bert", pooling="last")
