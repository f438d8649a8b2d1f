"""The optimisers against the same steps on scalars, one by one, in 50 digits."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npl_lora.lora import AdamWState, adamw, sgd

HOW = {"lr": 0.125, "weight_decay": 0.25}
ADAM = {"betas": (0.875, 0.96875), "eps": 2.0**-12}


def adamw_on_a_number(p, gradients):
    """Loshchilov and Hutter's algorithm 2, a parameter at a time; lr times the decay."""
    b1, b2 = (mpmath.mpf(b) for b in ADAM["betas"])
    m = v = mpmath.mpf(0)
    for t, g in enumerate(gradients, start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        p = p - HOW["lr"] * HOW["weight_decay"] * p
        p = p - HOW["lr"] * (m / (1 - b1**t)) / (mpmath.sqrt(v / (1 - b2**t)) + ADAM["eps"])
    return p


@given(seed=st.integers(0, 2**32 - 1), steps=st.integers(1, 4))
def test_adamw(seed, steps):
    rng = np.random.default_rng(seed)
    start, gradients = rng.standard_normal((2, 3)), rng.standard_normal((steps, 2, 3))
    p, state = start, AdamWState()
    for g in gradients:
        p, state = adamw(p, g, state, **HOW, **ADAM)
    with mpmath.workdps(50):
        for index in np.ndindex(p.shape):
            exact = adamw_on_a_number(mpmath.mpf(start[index]), [mpmath.mpf(g[index]) for g in gradients])
            # a dozen roundings a step, of p and of a step of at most 2 lr
            assert abs(p[index] - exact) <= 12 * steps * 2.0**-53 * (abs(start[index]) + 2 * steps * HOW["lr"])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_sgd_decays_with_the_gradient_and_keeps_the_dtype(dtype):
    p, g = np.array([1.0, -2.0], dtype), np.array([0.5, 0.25], dtype)
    after = sgd(p, g, **HOW)
    assert after.dtype == dtype
    np.testing.assert_array_equal(after, [1.0 - 0.125 * 0.75, -2.0 + 0.125 * 0.25])
    np.testing.assert_array_equal(p, [1.0, -2.0])


def test_states_are_values():
    first, state = adamw(np.ones(2), np.ones(2), AdamWState(), **HOW, **ADAM)
    again, _ = adamw(np.ones(2), np.ones(2), AdamWState(), **HOW, **ADAM)
    np.testing.assert_array_equal(first, again)
    assert state.step == 1


def test_a_gradient_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"g has shape \(1,\), expected \(\.\.\.\) = \(2,\)"):
        sgd(np.ones(2), np.ones(1), **HOW)
    with pytest.raises(ValueError, match="g has shape"):
        adamw(np.ones(2), np.ones(1), AdamWState(), **HOW, **ADAM)
