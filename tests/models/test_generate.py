"""Continuing a text: greedily, by lot, to an end, and refused with a sentence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import tiny

from npl_lora.adapters import LoRAConfig
from npl_lora.models import generate, load
from npl_lora.models._generate import choose


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(tiny.folder(tmp_path_factory.mktemp("model")))


def test_greedy_is_the_largest_logit_each_time(model):
    adapter = model.attach(LoRAConfig(r=2, init_lora_weights=False), rng=0)
    tokens = [3, 1, 4]
    for _ in range(5):
        logits, _ = model.logits(np.array([tokens]), adapter)
        tokens.append(int(np.argmax(logits[0, -1])))
    assert list(generate(model, [3, 1, 4], adapter, max_tokens=5)) == tokens[3:]


def test_it_ends(model):
    tokens = list(generate(model, [3, 1, 4], max_tokens=5))
    assert list(generate(model, [3, 1, 4], max_tokens=5, stop=tokens[1:2])) == tokens[: tokens.index(tokens[1]) + 1]
    assert len(list(generate(model, [3] * 14, max_tokens=50))) == 2  # the model has 16 positions
    assert list(generate(model, [3], max_tokens=0)) == []


def test_the_same_seed_gives_the_same_text(model):
    def drawn(seed):
        return list(generate(model, [3, 1], max_tokens=12, temperature=1.5, rng=seed))

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


@given(seed=st.integers(0, 2**32), temperature=st.floats(0.1, 3), top_p=st.floats(0.05, 1))
def test_only_the_likeliest_are_drawn(seed, temperature, top_p):
    """The fewest whose probabilities add up to top_p."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal(9).astype(np.float32)
    p = np.exp(logits.astype(np.float64) / temperature)
    p /= p.sum()
    token = choose(logits, temperature, top_p, rng)
    likelier = p[p > p[token]].sum()
    assert likelier <= top_p + 1e-12


def test_drawn_as_often_as_they_should_be():
    rng, logits = np.random.default_rng(0), np.log(np.array([0.5, 0.3, 0.15, 0.05]))
    counts = np.bincount([choose(logits, 1.0, 0.9, rng) for _ in range(4000)], minlength=4) / 4000
    np.testing.assert_allclose(counts, np.array([0.5, 0.3, 0.15, 0.0]) / 0.95, atol=0.04)


@pytest.mark.parametrize(
    ("tokens", "how", "sentence"),
    [
        ([], {}, "tokens is empty"),
        ([1], {"temperature": -1.0}, "temperature is -1.0"),
        ([1], {"temperature": float("nan")}, "temperature is nan"),
        ([1], {"top_p": 0.0}, "top_p is 0.0"),
        ([1] * 16, {}, "16 of the model's 16 positions"),
        ([13], {}, "ids has values from 13 to 13, expected 0 <= ids < 13"),
    ],
)
def test_what_does_not_fit(model, tokens, how, sentence):
    with pytest.raises(ValueError, match=sentence):
        list(generate(model, tokens, **how))
