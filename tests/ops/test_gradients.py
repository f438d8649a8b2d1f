"""Every gradient of every op: against the complex step, against loops over scalars, against 50 digits."""

import mpmath
import numpy as np
import pytest
from agreement import assert_close, call, complex_step, convention, naive_answer, term_sizes, values
from configurations import DIMS, OPS, POINTS, build
from hypothesis import given, settings
from scalars import FloatMath, HighMath

from npl_lora import ops


@pytest.mark.parametrize("name", OPS)
@settings(max_examples=30)
@given(d=DIMS)
def test_complex_step_agrees_to_rounding(name, d):
    inputs, config = build(name, d)
    _, grads, dy = call(name, inputs, config)
    _, sizes = term_sizes(name, inputs, config, dy)
    assert set(grads) == set(sizes)
    for n, grad in grads.items():
        expected = convention(name, config, n, complex_step(getattr(ops, name), inputs, config, n, dy))
        assert_close(grad, expected, sizes[n], 1e-13, f"d{n}")


@pytest.mark.parametrize("name", OPS)
@settings(max_examples=40)
@given(d=DIMS)
def test_loops_over_scalars_agree(name, d):
    inputs, config = build(name, d)
    y, grads, dy = call(name, inputs, config)
    naive_y, naive_grads = naive_answer(FloatMath, name, inputs, config, dy)
    y_size, sizes = term_sizes(name, inputs, config, dy)
    assert_close(y, values(naive_y), y_size, 1e-13, "y")
    assert set(grads) == set(naive_grads)
    for n, grad in grads.items():
        assert_close(grad, values(naive_grads[n]), sizes[n], 1e-13, f"d{n}")


@pytest.mark.parametrize("point", POINTS, ids=["first", "second", "third"])
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", OPS)
def test_fifty_digits_agree_to_8_units(name, seed, point):
    small = {
        "leading": (2,),
        "in": 2,
        "out": 3,
        "r": 2,
        "F": 2,
        "V": 3,
        "T": 2,
        "S": 3,
        "half": 1,
        "per": 1,
        "start": seed,
    }
    inputs, config = build(name, point | small | {"seed": seed})
    y, grads, dy = call(name, inputs, config)
    with mpmath.workdps(50):
        exact_y, exact = naive_answer(HighMath, name, inputs, config, dy)
        y_size, sizes = term_sizes(name, inputs, config, dy)
        for what, got, right, size in [("y", y, exact_y, y_size)] + [(n, grads[n], exact[n], sizes[n]) for n in grads]:
            for index in np.ndindex(got.shape):
                error = abs(mpmath.mpf(float(got[index])) - right[index])
                assert error <= 8 * mpmath.mpf(2) ** -53 * size[index], (
                    what,
                    index,
                    float(error * 2**53 / size[index]),
                )
