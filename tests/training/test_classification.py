"""Training a classifier: its adapter, all of it, or its head alone; and the share of texts that it gets right."""

import numpy as np
import pytest
from models import tiny

from npl_lora.adapters import LoRAConfig
from npl_lora.models import load, load_classifier
from npl_lora.training.data import Row
from npl_lora.training.loop import evaluate_rows
from npl_lora.training.step import Batch, NonFiniteError, Recipe, State, gradients, train_step


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_classifier(tiny.folder(tmp_path_factory.mktemp("model"), "bert"), tiny.CLASSES, np.float64, "mean")


def started(model, what):
    lora = LoRAConfig(r=2, lora_alpha=3, lora_dropout=0.25, init_lora_weights=False)
    begin = {"lora": lambda: model.attach(lora, rng=1), "full": lambda: model.full(rng=1)}
    return begin[what]() if what in begin else model.full(["classifier"], rng=1)


def of(batch):
    """The rows of a batch, without padding."""
    return [Row(ids[m], label) for ids, label, m in zip(batch.tokens, batch.labels, batch.key_mask, strict=True)]


def test_the_labels_that_count():
    ids, labels, mask = tiny.texts()
    assert Batch(ids, labels, mask).count == 3
    assert Batch(*tiny.tokens()).count == 5  # of (2, 5): not the firsts, two of padding, one ignored


@pytest.mark.parametrize("what", ["lora", "full", "head"])
def test_what_is_trained_moves_and_the_model_does_not(model, what):
    before = {name: np.array(array) for name, array in model.base.items()}
    state = State(started(model, what))
    after, metrics = train_step(model, state, [Batch(*tiny.texts())], Recipe(steps=9))
    assert metrics.count == 3
    assert (after.step, after.adapter.parameters.keys()) == (1, state.adapter.parameters.keys())
    for name, array in after.adapter.parameters.items():
        assert np.any(array != state.adapter.parameters[name]), name
    for name, array in model.base.items():
        np.testing.assert_array_equal(array, before[name])


def test_micro_batches_are_the_batch(model):
    state = State(started(model, "full"))
    parts = [Batch(*tiny.texts(seed)) for seed in range(3)]
    whole = Batch(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("tokens", "labels", "key_mask")))
    loss, grads = gradients(model, state, parts, Recipe(steps=1))
    right_loss, right = gradients(model, state, [whole], Recipe(steps=1))
    np.testing.assert_allclose(loss, right_loss, rtol=1e-13)
    for name in grads:
        np.testing.assert_allclose(grads[name], right[name], rtol=1e-9, atol=1e-13, err_msg=name)


@pytest.mark.parametrize(("what", "lr", "at_most"), [("lora", 0.03, 0.8), ("full", 0.01, 0.1)])
def test_it_learns_three_texts(model, what, lr, at_most):
    """Full fine-tuning by heart; an adapter of rank 2 on random layers as far as that goes."""
    state, batch = State(started(model, what)), Batch(*tiny.texts(T=9))
    for _ in range(100):
        state, metrics = train_step(model, state, [batch], Recipe(steps=100, lr=lr, schedule="constant"))
    assert metrics.loss < at_most < 1.09 < np.log(3)
    if what == "full":
        assert evaluate_rows(model, state.adapter, of(batch), micro=3, padding=0).accuracy == 1.0


def test_a_table_that_is_shared_stays_shared(tmp_path):
    """Full fine-tuning of a tied model trains one table in two places."""
    model, (ids, labels, mask) = load(tiny.folder(tmp_path, "llama-tied"), np.float64), tiny.tokens()
    everything, name = model.full(), "model.embed_tokens.weight"
    assert everything.parameters.keys() == set(model.base)
    moved = everything.with_parameters({n: 1.5 * array for n, array in everything.parameters.items()})
    merged = model.merged(moved)
    assert set(merged.base) == set(model.base)
    np.testing.assert_array_equal(merged.logits(ids)[0], model.logits(ids, moved)[0])
    grads = model.loss(ids, labels, moved, key_mask=mask)[1](1.0)
    right = merged.loss(ids, labels, key_mask=mask, wrt=[name])[1](1.0)
    np.testing.assert_array_equal(grads[name], right[name])


def test_accuracy_is_a_share_of_what_counts(model):
    adapter = started(model, "head")
    ids, _, mask = tiny.texts()
    logits, _ = model.scores(ids, adapter, key_mask=mask)
    best = np.argmax(logits, axis=1)
    wrong = (best + 1) % 3
    how = dict(micro=2, padding=0)
    both = [*of(Batch(ids, best, mask)), *of(Batch(ids, wrong, mask))]
    assert evaluate_rows(model, adapter, both, **how).accuracy == 0.5
    some = np.where([True, True, False, False], best, [0, 0, -100, wrong[3]])
    assert evaluate_rows(model, adapter, of(Batch(ids, some, mask)), **how).accuracy == 2 / 3
    assert evaluate_rows(model, adapter, of(Batch(ids, np.full(4, -100), mask)), **how).accuracy == 0.0
    broken = adapter.with_parameters({n: np.full_like(array, np.nan) for n, array in adapter.parameters.items()})
    with pytest.raises(NonFiniteError, match="the held-out loss is nan"):
        evaluate_rows(model, broken, both, **how)
