"""Error-carrying arrays: the values are the ops' own, the bounds hold, and they are not much larger than what
happens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle.test_verdicts import NUMBERS, draw_case
from oracle.variants import in_dtype, right_of, with_masks

from npl_lora.oracle import CONTRACTS
from npl_lora.oracle.case import widen
from npl_lora.oracle.tolerance.rounding import PRECISIONS, Rounded, RoundingNamespace


@pytest.mark.parametrize("contract", NUMBERS)
def test_the_values_and_sizes_are_the_ops_own(contract):
    for case in map(with_masks, CONTRACTS[contract].cases("float32")):
        wide = widen(case)
        plain = CONTRACTS[contract].answer(wide, case.config)
        for name, right in right_of(case).items():
            assert np.all(np.abs(right.value - plain[name]) <= 1e-14 * right.size), name
            assert np.all(np.abs(right.value) <= right.size * (1 + 1e-12)), name


def test_the_size_of_a_polynomial_is_the_op_on_absolute_values():
    case = CONTRACTS["lora_linear"].cases("float64")[1]
    absolute = CONTRACTS["lora_linear"].answer({n: np.abs(a) for n, a in case.arrays.items()}, case.config)
    for name, right in right_of(case).items():
        np.testing.assert_allclose(right.size, absolute[name], rtol=1e-13)


floats = st.floats(-100, 100, width=16).filter(lambda v: abs(v) > 1e-2)


@settings(max_examples=60)
@given(a=floats, b=floats, c=floats)
def test_the_bound_holds_for_half_precision_arithmetic(a, b, c):
    """(a b + c) / b - c and its like, in float16 and with the error that Rounded says."""
    xp = RoundingNamespace(PRECISIONS["float16"])
    half = [np.array([v], np.float16) for v in (a, b, c)]
    A, B, C = (xp.exact(v) for v in half)
    x, y, z = half
    pairs = [
        (A * B + C, x * y + z),
        ((A * B + C) / B, (x * y + z) / y),
        ((A + B) * 0.3 - C, (x + y) * np.float16(0.3) - z),
        (xp.exp(A / (xp.sqrt(A * A + 1.0))), np.exp(x / np.sqrt(x * x + np.float16(1)))),
        (xp.log(A * A + B * B), np.log(x * x + y * y)),
    ]
    for bound, got in pairs:
        if np.isfinite(got).all():
            assert np.all(np.abs(got.astype(float) - bound.value) <= bound.error), (bound.value, got)


def test_an_exact_input_has_no_error_and_integers_carry_none():
    xp = RoundingNamespace(PRECISIONS["float32"])
    assert not xp.exact(np.ones(3, np.float32)).error.any()
    assert xp.exact(np.arange(3)).error is None
    assert isinstance(xp.exact(np.ones(3)) + 1.0, Rounded)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.slow
def test_what_is_allowed_is_within_a_factor_of_what_happens(dtype):
    """A right answer uses between 1/60 and 1/3 of what it is allowed: more would be luck, less a blunt verdict.

    Root mean squares over all numbers of an output and 5 draws, in half precision, where rounding is easiest to see.
    Low are scalars, of which a dozen runs know little, and decompositions, which are not measured.
    """
    for contract in NUMBERS:
        for name in CONTRACTS[contract].draws:
            used: dict[str, list[float]] = {}
            for seed in range(5):
                case = draw_case(contract, name, seed, dtype)
                answer = in_dtype(case)
                for output, right in right_of(case).items():
                    seen = right.allowed > 0
                    ratio = np.abs(answer[output].astype(float) - right.value)[seen] / right.allowed[seen]
                    used.setdefault(output, []).extend((ratio**2).ravel())
            for output, squares in used.items():
                if any(squares):  # without a base, what is unmerged is 0 where both sides round alike
                    least = 1 / 200 if "svd" in name else 1 / 60
                    if (name, output) == ("certain-label", "loss"):
                        least = 0.0  # a right answer may take a large logit from a large logarithm; ours does not
                    assert least < np.sqrt(np.mean(squares)) < 1 / 3, (contract, name, output)


def test_what_is_exact_in_every_evaluation_keeps_what_is_derived():
    """With one key the softmax is 1 and dq is 0, whoever computes it as p (dp - p dp); others get a rounding error."""
    case = CONTRACTS["lora_attention"].cases("float32")[0]
    one = {"x": case["x"][:, :1], "dy": case["dy"][:, :1]}
    right = right_of(case.with_arrays(one))["dA_q"]
    assert not right.value.any()
    assert np.all(right.allowed > 0)
    assert np.all(right.allowed < 1e-4 * right.size)
