"""Dropout masks: the right share, the right size, the same again when asked again."""

import itertools
import math

import numpy as np
import pytest

from npl_lora.lora import counter_rng, dropout_mask


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_share_and_size(p):
    """By Hoeffding, the share of n entries is off by more than e with probability 2 exp(-2 n e^2) = 1e-9 at
    most."""
    mask = dropout_mask((400, 500), p, counter_rng(0, 0, 0), np.float64)
    assert set(np.unique(mask)) == {0.0, 1.0 / (1.0 - p)}
    assert abs(np.mean(mask == 0) - p) < math.sqrt(math.log(2e9) / (2 * mask.size))


def test_without_dropout_the_mask_is_all_ones():
    np.testing.assert_array_equal(dropout_mask((3, 4), 0.0, counter_rng(0, 0, 0)), np.ones((3, 4)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_every_precision_drops_the_same_entries(dtype):
    mask = dropout_mask((50, 40), 0.25, counter_rng(1, 2, 3), dtype)
    assert mask.dtype == dtype
    wide = dropout_mask((50, 40), 0.25, counter_rng(1, 2, 3), np.float64)
    np.testing.assert_array_equal(mask, wide.astype(dtype))


def test_the_same_triple_gives_the_same_mask_and_any_other_another():
    triples = list(itertools.product((0, 1, 2, 2**64 - 1), repeat=3))
    masks = [[dropout_mask((8, 32), 0.5, counter_rng(*t)).tobytes() for t in triples] for _ in range(2)]
    assert masks[0] == masks[1]
    assert len(set(masks[0])) == len(triples)


def test_the_stream_is_fixed():
    """Others rely on it: Philox4x64-10 with key (seed, layer) and counter (0, 0, 0, step)."""
    words = counter_rng(seed=1, step=5, layer=2).bit_generator.random_raw(2)
    assert words[0] == 17153386023422792189
    assert words[1] == 9441044662824465068


def test_bad_arguments_are_refused_in_one_sentence():
    rng = counter_rng(0, 0, 0)
    with pytest.raises(ValueError, match=r"^dropout is 1, expected 0 <= dropout < 1$"):
        dropout_mask((2,), 1, rng)
    with pytest.raises(TypeError, match=r"^rng is None, expected a numpy.random.Generator$"):
        dropout_mask((2,), 0.5, None)
    with pytest.raises(TypeError, match=r"^dtype is int64, expected a real floating one$"):
        dropout_mask((2,), 0.5, rng, np.int64)
    with pytest.raises(ValueError, match=rf"^step is -1, expected 0 <= step < {2**64}$"):
        counter_rng(0, -1, 0)
    with pytest.raises(TypeError, match=r"^layer is a float, expected an integer$"):
        counter_rng(0, 0, 1.0)
