"""What cases are drawn from: PCG64's raw words, and nothing after them that could differ between machines."""

from fractions import Fraction

import numpy as np
import pytest
from light import light

from npl_lora.oracle import CONTRACTS, DTYPES
from npl_lora.oracle.contracts.draw import Draw

# PCG64 seeded with crc32(b"words"): what NumPy promises not to change, and the first number drawn from it.
WORDS = [4558038198258439022, 2549272983345332289, 11080033805586771819]


def test_the_stream_is_the_one_that_was_recorded():
    assert [int(word) for word in Draw("words", "float64")._words(3)] == WORDS
    exact = Fraction(sum(word >> 14 for word in WORDS), 2**49) - 3
    assert Fraction(float(Draw("words", "float64").normal(1)[0])) == exact


def test_standard_numbers_are_dyadic_within_three_and_have_mean_0_and_variance_1():
    z = Draw("many", "float64").standard(30_000)
    scaled = z * 2.0**49
    assert np.array_equal(scaled, np.round(scaled))
    assert np.any(scaled % 2)
    assert np.max(np.abs(z)) <= 3.0
    assert abs(np.mean(z)) < 5 / np.sqrt(z.size)
    assert abs(np.mean(z**2) - 1.0) < 5 * np.sqrt(2.0 / z.size)


def nearest(x, dtype):
    """The dtype's number nearest to a float64, ties to even, by rational arithmetic."""
    info, exact = np.finfo(dtype), abs(Fraction(x))
    quantum = Fraction(2) ** (info.minexp - info.nmant)
    while exact >= quantum * 2 ** (info.nmant + 1):
        quantum *= 2
    return float(quantum * round(exact / quantum)) * (-1 if x < 0 else 1)


@pytest.mark.parametrize("dtype", light(["float32", "float16"]))
def test_numbers_are_rounded_once_ties_to_even(dtype):
    info, draw = np.finfo(dtype), Draw("round", dtype)
    ties = 1.0 + np.arange(1, 9, 2) * float(info.eps) / 2
    just_above = ties + 2.0**-50  # what two roundings would take for a tie
    tiny = np.array([1.5, 0.5, 2.5]) * float(info.smallest_subnormal)
    numbers = np.concatenate([draw.widened().normal(2000, std=0.3), ties, just_above, tiny, -ties, [0.0]])
    assert draw.stored(numbers).dtype == dtype
    assert [float(x) for x in draw.stored(numbers)] == [nearest(x, dtype) for x in numbers]


@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("contract", CONTRACTS)
def test_cases_have_numbers_that_no_narrower_dtype_holds(contract, dtype):
    """Whoever rounds the inputs to a narrower dtype is to be seen."""
    narrower = {"float64": np.float32, "float32": np.float16}[dtype]
    for case in CONTRACTS[contract].cases(dtype):
        for name in ("x", "X", "W", "W_gate", "Wq", "A_1", "E", "logits"):
            if name in case and "exact" not in case.id and case[name].any():
                lost = case[name].astype(narrower).astype(dtype) != case[name]
                assert np.mean(lost) > 0.9, (case.id, name)


def test_integers_and_masks():
    draw = Draw("integers", "float32")
    assert np.array_equal(np.unique(draw.integers(5, 40, 50)), np.arange(5))
    mask = draw.dropout_mask(100, 100, p=0.75)
    assert set(np.unique(mask)) == {0.0, 4.0}
    assert abs(np.mean(mask == 0) - 0.75) < 0.03
