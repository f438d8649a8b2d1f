"""Complex step through whole tiny models, every tensor and every parameter of an adapter, element by element."""

import numpy as np
import pytest
from models import tiny

from npl_lora.adapters import LoRAConfig
from npl_lora.models import Cache, LossOptions, Model, load
from npl_lora.models._weights import weights_of

STEP = 1e-200
EVERYWHERE = LoRAConfig(r=2, lora_alpha=3, use_rslora=True, target_modules="all-linear", init_lora_weights=False)
WITH_EMBEDDING = LoRAConfig(
    r=2, lora_alpha=5, target_modules=r".*\.(embed_tokens|wte|wpe|down_proj|mlp\.c_proj)", init_lora_weights=False
)


QUICK = ("llama",)  # the others are slow; the golden numbers are of all kinds


def complex_step(f, values):
    """The derivative of f(values) by every element of one array."""
    at, gradient = values.astype(np.complex128), np.empty(values.shape)
    for index in np.ndindex(values.shape):
        shifted = at.copy()
        shifted[index] += 1j * STEP
        gradient[index] = np.imag(f(shifted)) / STEP
    return gradient


def loss_with(model, adapter, name, value, batch):
    """The loss with one array replaced, wherever it lies."""
    ids, labels, mask = batch
    if name in adapter.parameters:
        adapter = adapter.with_parameters({**adapter.parameters, name: value})
    else:
        model = Model(model.about, weights_of({**model.base, name: value}, np.complex128))
    return model.loss(ids, labels, adapter, key_mask=mask, wrt=())[0]


@pytest.mark.parametrize("kind", [pytest.param(k, marks=() if k in QUICK else pytest.mark.slow) for k in tiny.KINDS])
def test_every_gradient_of_an_adapter(tmp_path, kind):
    model = load(tiny.folder(tmp_path, kind), dtype=np.float64)
    adapter = model.attach(EVERYWHERE, rng=1)
    check_gradients(model, adapter, tuple(adapter.parameters))


@pytest.mark.slow
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_every_gradient_of_an_adapter_and_of_the_model(tmp_path, kind):
    model = load(tiny.folder(tmp_path, kind), dtype=np.float64)
    adapter = model.attach(WITH_EMBEDDING, rng=1)
    check_gradients(model, adapter, (*adapter.parameters, *model.base))


def check_gradients(model, adapter, wrt):
    batch = ids, labels, mask = tiny.tokens()
    _, pullback = model.loss(ids, labels, adapter, key_mask=mask, wrt=wrt)
    grads = pullback(1.0)
    for name in wrt:
        value = adapter.parameters[name] if name in adapter.parameters else model.base[name]
        right = complex_step(lambda v, name=name: loss_with(model, adapter, name, v, batch), value)
        assert np.linalg.norm(grads[name] - right) <= 1e-12 * max(np.linalg.norm(right), 1e-3), name


def test_options_go_in_as_one_object_or_by_name(tmp_path):
    model = load(tiny.folder(tmp_path, "llama"), dtype=np.float64)
    adapter, (ids, labels, mask) = model.attach(EVERYWHERE, rng=1), tiny.tokens()
    right, pullback = model.loss(ids, labels, adapter, key_mask=mask, count=7, wrt=())
    assert pullback.inputs == ()
    assert model.loss(ids, labels, adapter, LossOptions(key_mask=mask, count=7, wrt=()))[0] == right
    replaced, pullback = model.loss(ids, labels, adapter, LossOptions(key_mask=mask, count=9), count=7)
    assert replaced == right
    assert pullback.inputs == tuple(adapter.parameters)
    with pytest.raises(TypeError, match="unexpected keyword argument 'mask'"):
        model.loss(ids, labels, adapter, mask=mask)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_recomputation_gives_the_same_bits(tmp_path, kind):
    model = load(tiny.folder(tmp_path, kind, dtype="float32"))
    adapter, (ids, labels, mask) = model.attach(EVERYWHERE, rng=1), tiny.tokens()
    results = [model.loss(ids, labels, adapter, key_mask=mask, recompute=recompute) for recompute in (False, True)]
    (loss, pullback), (again, recomputed) = results
    assert loss == again
    for name, gradient in pullback(1.0).items():
        assert gradient.dtype == np.float32
        np.testing.assert_array_equal(gradient, recomputed(1.0)[name])


def test_only_what_is_asked_for_is_computed(tmp_path):
    """No gradient below the lowest layer that has something to learn, and none for frozen weights."""
    model = load(tiny.folder(tmp_path), dtype=np.float64)
    adapter = model.attach(LoRAConfig(target_modules=["q_proj"], layers_to_transform=[1]), rng=1)
    ids, labels, mask = tiny.tokens()
    asked = []

    class Ops:
        def __getattr__(self, name):
            from npl_lora import ops

            def counted(*args, **kwargs):
                y, pullback = getattr(ops, name)(*args, **kwargs)
                backward = pullback._backward
                pullback._backward = lambda dy, wrt: asked.append((name, wrt)) or backward(dy, wrt)
                return y, pullback

            return counted

    _, pullback = model.loss(ids, labels, adapter, key_mask=mask, ops=Ops())
    pullback(1.0)
    assert sum(name == "attention" for name, _ in asked) == 1  # of two layers
    assert not any("W" in wrt or "w" in wrt or "E" in wrt for _, wrt in asked)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_cache_gives_the_logits_of_the_whole(tmp_path, kind):
    model = load(tiny.folder(tmp_path, kind), dtype=np.float64)
    ids = tiny.tokens(T=7)[0]
    right, _ = model.logits(ids)
    cache = Cache(model.config.n_layers, 7)
    for start, stop in ((0, 4), (4, 5), (5, 7)):
        logits = model.next_logits(ids[:, start:stop], None, cache)
        np.testing.assert_allclose(logits, right[:, stop - 1], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("config", [EVERYWHERE, WITH_EMBEDDING], ids=["linear", "embedding"])
def test_merging_and_unmerging(tmp_path, kind, config):
    model = load(tiny.folder(tmp_path, kind), dtype=np.float64)
    ids = tiny.tokens()[0]
    adapter = model.attach(config, rng=1)
    merged = model.merged(adapter)
    np.testing.assert_allclose(merged.logits(ids)[0], model.logits(ids, adapter)[0], rtol=1e-10, atol=1e-12)
    back = merged.merged(adapter, sign=-1.0)
    for name in model.base:
        np.testing.assert_allclose(back.base[name], model.base[name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", ["llama", "llama-tied"])
def test_merging_what_is_trained_in_full(tmp_path, kind):
    """The head of a tied model keeps the table that the embedding had."""
    model = load(tiny.folder(tmp_path, kind), dtype=np.float64)
    ids, labels, mask = tiny.tokens()
    adapter = model.attach(LoRAConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens"]), rng=1)
    name = "model.embed_tokens.weight"
    adapter = adapter.with_parameters({**adapter.parameters, name: 2.0 * adapter.parameters[name]})
    right, _ = model.logits(ids, adapter)
    np.testing.assert_allclose(model.merged(adapter).logits(ids)[0], right, rtol=1e-12, atol=1e-13)
    _, pullback = model.loss(ids, labels, adapter, key_mask=mask)
    numbers = complex_step(lambda v: loss_with(model, adapter, name, v, (ids, labels, mask)), adapter.parameters[name])
    np.testing.assert_allclose(pullback(1.0)[name], numbers, rtol=1e-9, atol=1e-14)


def test_with_nothing_to_count_loss_and_gradients_are_zero(tmp_path):
    model = load(tiny.folder(tmp_path), dtype=np.float64)
    adapter, (ids, labels, _) = model.attach(EVERYWHERE, rng=1), tiny.tokens()
    loss, pullback = model.loss(ids, np.full_like(labels, -100), adapter)
    assert loss == 0
    grads = pullback(1.0)
    assert grads.keys() == adapter.parameters.keys()
    assert not any(np.any(gradient) for gradient in grads.values())


def test_micro_batches_add_up_to_the_batch(tmp_path):
    model = load(tiny.folder(tmp_path), dtype=np.float64)
    adapter, (ids, labels, mask) = model.attach(EVERYWHERE, rng=1), tiny.tokens()
    count = int(np.sum(labels[:, 1:] != -100))
    loss, pullback = model.loss(ids, labels, adapter, key_mask=mask)
    parts = [
        model.loss(ids[i : i + 1], labels[i : i + 1], adapter, key_mask=mask[i : i + 1], count=count) for i in (0, 1)
    ]
    np.testing.assert_allclose(sum(part for part, _ in parts), loss, rtol=1e-13)
    grads, halves = pullback(1.0), [p(1.0) for _, p in parts]
    for name in grads:
        np.testing.assert_allclose(halves[0][name] + halves[1][name], grads[name], rtol=1e-9, atol=1e-13)
