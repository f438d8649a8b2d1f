"""A step on a batch: the gradients of all of it, clipped, the rate, and what happens when something is not finite."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import tiny

from npl_lora.adapters import LoRAConfig
from npl_lora.models import load
from npl_lora.training.schedule import SCHEDULES, rate
from npl_lora.training.step import Batch, NonFiniteError, Recipe, State, global_norm, gradients, train_step

CONFIG = LoRAConfig(r=2, lora_alpha=3, target_modules=["q_proj", "down_proj"], init_lora_weights=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(tiny.folder(tmp_path_factory.mktemp("model")), dtype=np.float64)


def batches(count=2):
    return [Batch(*tiny.tokens(seed)) for seed in range(count)]


def joined(parts):
    return Batch(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("tokens", "labels", "key_mask")))


def same(a, b, **how):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], err_msg=name, **how)


def test_micro_batches_are_the_batch(model):
    state, parts = State(model.attach(CONFIG, rng=1)), batches(3)
    loss, grads = gradients(model, state, parts, Recipe(steps=1))
    whole_loss, whole = gradients(model, state, [joined(parts)], Recipe(steps=1))
    assert math.isclose(loss, whole_loss, rel_tol=1e-13)
    same(grads, whole, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("clip", [None, 1e-3, 1e3])
def test_clipping(model, clip):
    recipe = Recipe(steps=9, lr=0.5, optimizer="sgd", clip=clip, schedule="constant")
    state = State(model.attach(CONFIG, rng=1))
    after, metrics = train_step(model, state, batches(), recipe)
    moved = {name: state.adapter.parameters[name] - p for name, p in after.adapter.parameters.items()}
    assert math.isclose(global_norm(moved), 0.5 * min(metrics.norm, math.inf if clip is None else clip), rel_tol=2e-3)


def test_loraplus_moves_B_further(model):
    state, (plain, plus) = State(model.attach(CONFIG, rng=1)), (Recipe(steps=9), Recipe(steps=9, loraplus_ratio=16.0))
    moved = []
    for recipe in (plain, plus):
        after, _ = train_step(model, state, batches(), recipe)
        moved.append({name: p - state.adapter.parameters[name] for name, p in after.adapter.parameters.items()})
    for name, by in moved[0].items():
        np.testing.assert_allclose(moved[1][name], (16.0 if "lora_B" in name else 1.0) * by, rtol=1e-6)


def test_a_step_changes_nothing_in_place_and_is_the_same_again(model):
    dropped = LoRAConfig.from_json({**CONFIG.as_json(), "lora_dropout": 0.5})
    state = State(model.attach(dropped, rng=1))
    before = {name: p.copy() for name, p in state.adapter.parameters.items()}
    first, _ = train_step(model, state, batches(), Recipe(steps=9, seed=3))
    same(before, state.adapter.parameters, rtol=0)
    again, _ = train_step(model, state, batches(), Recipe(steps=9, seed=3))
    same(first.adapter.parameters, again.adapter.parameters, rtol=0)
    assert (first.step, first.micro_batches) == (1, 2)
    other, _ = train_step(model, state, batches(), Recipe(steps=9, seed=4))
    assert any(np.any(other.adapter.parameters[n] != p) for n, p in first.adapter.parameters.items())


def test_dropout_is_the_same_when_the_forward_is_computed_again(model):
    dropped = LoRAConfig.from_json({**CONFIG.as_json(), "lora_dropout": 0.5})
    state = State(model.attach(dropped, rng=1))
    results = []
    for recompute in (False, True):

        class Chosen:
            def loss(self, *args, recompute=recompute, **how):
                return model.loss(*args, recompute=recompute, **how)

        results.append(gradients(Chosen(), state, batches(), Recipe(steps=1)))
    assert results[0][0] == results[1][0]
    same(results[0][1], results[1][1], rtol=0)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_step_that_goes_too_far_is_said_and_leaves_the_state(model, optimizer):
    """The loss and the gradients are finite: without this, the last step of a run would write what is not."""
    state = State(model.attach(CONFIG, rng=1))
    recipe = Recipe(steps=1, lr=1e308, loraplus_ratio=1e10, optimizer=optimizer, schedule="constant")
    with pytest.raises(NonFiniteError, match=r"lora_B.weight is not finite at \[0, 0\]: .* after step 1, though"):
        train_step(model, state, batches(), recipe)
    assert all(np.isfinite(p).all() for p in state.adapter.parameters.values())


def test_a_gradient_whose_square_is_too_large(tmp_path):
    """In float32, with B A of the usual size: the gradient of B is near 1e25, and v would be infinite ever after."""
    model = load(tiny.folder(tmp_path, dtype="float32"))
    adapter = model.attach(CONFIG, rng=1)
    scaled = {n: p * np.float32(1e25 if "_A" in n else 1e-25) for n, p in adapter.parameters.items()}
    with pytest.raises(NonFiniteError, match=r"v of .*lora_B.weight is not finite at .*: inf .* after step 1"):
        train_step(model, State(adapter.with_parameters(scaled)), batches(), Recipe(steps=1, clip=None))


def test_what_is_not_finite_is_said_and_leaves_the_state(model):
    adapter = model.attach(CONFIG, rng=1)
    name = next(iter(adapter.parameters))
    broken = adapter.with_parameters({**adapter.parameters, name: np.full_like(adapter.parameters[name], np.nan)})
    with pytest.raises(NonFiniteError, match="the loss is nan in step 1"):
        train_step(model, State(broken), batches(), Recipe(steps=1))


def test_it_learns(model):
    state, losses = State(model.attach(CONFIG, rng=1)), []
    for _ in range(60):
        state, metrics = train_step(model, state, batches(), Recipe(steps=60, lr=0.1, warmup=4))
        losses.append(metrics.loss)
    assert losses[-1] < 0.75 * losses[0]  # of what two batches can be told apart by, behind frozen random layers


@given(st.sampled_from(SCHEDULES), st.integers(1, 200), st.integers(0, 50))
def test_rates(schedule, steps, warmup):
    rates = [rate(t, steps=steps, warmup=warmup, schedule=schedule) for t in range(steps)]
    assert all(0 <= r <= 1 for r in rates)
    rising, falling = rates[: warmup + 1], rates[warmup:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    if warmup < steps:
        assert rates[warmup] == 1.0


def test_an_unknown_schedule():
    with pytest.raises(ValueError, match="schedule is 'steep', expected one of constant, linear, cosine"):
        rate(0, steps=1, schedule="steep")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"schedule": "steep"}, "schedule is 'steep', expected one of"),
        ({"optimizer": "adam"}, "optimizer is 'adam', expected one of"),
        ({"steps": 0}, "steps is 0, expected at least 1"),
        ({"warmup": 10}, "warmup is 10, expected 0 to 9 steps"),
        ({"lr": 0.0}, "lr is 0.0, expected a finite number above 0"),
        ({"loraplus_ratio": math.inf}, "loraplus_ratio is inf, expected a finite number above 0"),
        ({"clip": 0.0}, "clip is 0.0, expected a finite number above 0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0, expected a finite number of at least 0"),
        ({"betas": (0.9, 1.0)}, r"betas is \(0.9, 1.0\), expected 0 <= beta < 1"),
        ({"seed": -1}, "seed is -1, expected at least 0"),
    ],
)
def test_a_recipe_that_cannot_be_meant(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        Recipe(**{"steps": 9, **fields})
