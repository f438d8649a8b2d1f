"""Every gradient of every op: against the complex step, against loops over scalars, against 50 digits."""

import mpmath
import numpy as np
import pytest
from agreement import assert_close, call, complex_step, convention, naive_answer, term_sizes, values
from configurations import DIMS, OPS, build, small
from hypothesis import given, settings
from light import light
from scalars import FloatMath, HighMath

from npl_lora import ops

LONG = ["lora_attention", "lora_mlp"]  # a complex step of every number takes a second or more


@pytest.mark.parametrize("name", [n for n in OPS if n not in LONG] + light(LONG, 0))
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


@pytest.mark.parametrize("seed", light(range(16), 4))
@pytest.mark.parametrize("name", OPS)
def test_fifty_digits_agree_to_8_units(name, seed):
    agrees_with_fifty_digits(name, *build(name, small(seed)))


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("start", [100, 8191, 131_071])
def test_rope_agrees_to_8_units_far_out(start, interleaved):
    point = {"half": 3, "T": 2, "start": start, "leading": (), "interleaved": interleaved}
    agrees_with_fifty_digits("rope", *build("rope", small(start) | point), with_arguments=True)


def agrees_with_fifty_digits(name, inputs, config, with_arguments=False):
    y, grads, dy = call(name, inputs, config)
    y_size, sizes = term_sizes(name, inputs, config, dy, with_arguments)
    with mpmath.workdps(50):
        exact_y, exact = naive_answer(HighMath, name, inputs, config, dy)
        for what, got, right, size in [("y", y, exact_y, y_size)] + [(n, grads[n], exact[n], sizes[n]) for n in grads]:
            for index in np.ndindex(got.shape):
                units = abs(mpmath.mpf(float(got[index])) - right[index]) * 2**53
                assert units <= 8 * size[index], f"{what}{list(index)}: {float(units)} units, S = {size[index]}"
