"""What is drawn has the distribution that was promised.

By Dvoretzky, Kiefer, Wolfowitz and Massart, the distribution function of n independent draws is nowhere
further than e from the true one, but for a probability of 2 exp(-2 n e^2). e is chosen for 1e-9. (The seeds
are fixed as well.)
"""

import math

import numpy as np
import pytest

from npl_lora.layers import LoRAAttention, LoRALinear

IN, OUT, RANK = 1024, 96, 64
FALSE_ALARM = 1e-9


def normal(sigma):
    return lambda t: 0.5 * (1 + math.erf(t / (sigma * math.sqrt(2))))


def uniform(bound):
    return lambda t: min(max((t + bound) / (2 * bound), 0.0), 1.0)


def distance(drawn, cdf):
    """sup over t of |share of the draws up to t - cdf(t)|. The share jumps at a draw, so look at both
    sides."""
    expected = np.array([cdf(float(t)) for t in np.sort(drawn, axis=None)])
    n = expected.size
    return max(np.max(np.arange(1, n + 1) / n - expected), np.max(expected - np.arange(n) / n))


def allowed(n):
    return math.sqrt(math.log(2 / FALSE_ALARM) / (2 * n))


INITS = {"course": normal(0.01), "kaiming": uniform(1 / 32), "gaussian": normal(1 / RANK)}


@pytest.mark.parametrize("init", INITS)
def test_A(init):
    A = LoRALinear(IN, OUT, RANK, init=init, rng=1).A
    assert distance(A, INITS[init]) < allowed(A.size)
    others = [cdf for name, cdf in INITS.items() if name != init]
    assert all(distance(A, cdf) > 2 * allowed(A.size) for cdf in others)  # the test can tell them apart


def test_W_and_b_as_torch_nn_linear():
    layer = LoRALinear(IN, OUT, RANK, bias=True, rng=2)
    assert distance(layer.W, uniform(1 / 32)) < allowed(layer.W.size)
    assert np.max(np.abs(layer.W)) <= 1 / 32
    assert distance(layer.b, uniform(1 / 32)) < allowed(layer.b.size)


def test_attention():
    layer = LoRAAttention(256, 4, 32, n_kv_heads=2, init="kaiming", rng=3)
    for name, array in {**layer.trainable, **layer.frozen}.items():
        if name.startswith("B_"):
            assert not array.any()
        else:
            assert distance(array, uniform(1 / 16)) < allowed(array.size)
