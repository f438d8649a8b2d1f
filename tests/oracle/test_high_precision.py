"""Correct rounding, against rational arithmetic and mpmath's functions, in loops written here."""

from fractions import Fraction

import mpmath
import numpy as np
import pytest

from npl_lora import ops
from npl_lora.oracle import CONTRACTS
from npl_lora.oracle.case import widen
from npl_lora.oracle.tolerance.judge import right_answer
from npl_lora.oracle.tolerance.statistics import Distribution
from npl_lora.oracle.vectors.high_precision import HighPrecisionNamespace, UncertainError, correctly_rounded


def case_of(contract, name, dtype="float64"):
    return next(c for c in CONTRACTS[contract].cases(dtype) if c.id.split("/")[1] == name)


def rounded(case):
    return correctly_rounded(CONTRACTS[case.contract].answer, case.arrays, case.config)


def fractions(case):
    """The case's numbers as object arrays of fractions."""
    arrays = widen(case)
    return {n: a if a.dtype.kind in "biu" else np.vectorize(Fraction, otypes=[object])(a) for n, a in arrays.items()}


def floats(t):
    return np.vectorize(float, otypes=[np.float64])(t)  # float() of a fraction rounds correctly


def rows(t):
    return t.reshape(-1, t.shape[-1])


@pytest.mark.parametrize("dtype", ["float64", "float16"])
@pytest.mark.parametrize("name", ["tokens", "dropout", "wide-rank"])
def test_lora_linear_is_correctly_rounded(name, dtype):
    case = case_of("lora_linear", name, dtype)
    t, s = fractions(case), Fraction(case.config["alpha"], case.config["r"])
    x, W, A, B, dy = (t[n] for n in ("x", "W", "A", "B", "dy"))
    mask, b = t.get("mask", np.full(x.shape, Fraction(1))), t.get("b", Fraction(0))
    h, dh = (x * mask) @ A.T, s * (dy @ B)
    expected = {
        "y": x @ W.T + b + s * (h @ B.T),
        "dx": dy @ W + mask * (dh @ A),
        "dA": rows(dh).T @ rows(x * mask),
        "dB": s * (rows(dy).T @ rows(h)),
    }
    got = rounded(case)
    for output, value in expected.items():
        np.testing.assert_array_equal(got[output], floats(value), strict=True)


@pytest.mark.parametrize("name", ["plain", "fan-in-fan-out"])
def test_lora_merge_is_correctly_rounded(name):
    case = case_of("lora_merge", name)
    t, s = fractions(case), Fraction(case.config["alpha"], case.config["r"])
    delta = s * (t["B"] @ t["A"])
    got = rounded(case)
    merged = t["W"] + (delta.T if case.config["fan_in_fan_out"] else delta)
    np.testing.assert_array_equal(got["W_merged"], floats(merged), strict=True)
    np.testing.assert_array_equal(got["W_unmerged"], case["W"], strict=True)


def test_an_answer_that_is_exact_and_computed_inexactly_is_found():
    """(W + s B A) - s B A with an irrational s."""
    case = case_of("lora_merge", "rslora")
    np.testing.assert_array_equal(rounded(case)["W_unmerged"], case["W"], strict=True)


def test_sgd_is_correctly_rounded():
    case = case_of("train_steps", "sgd")
    t, s = fractions(case), Fraction(case.config["alpha"], case.config["r"])
    lr, decay = Fraction(case.config["lr"]), Fraction(case.config["weight_decay"])
    A, B, losses = t["A"], t["B"], []
    for x, y in zip(t["X"], t["Y"], strict=True):
        error = x @ t["W"].T + s * ((x @ A.T) @ B.T) - y
        losses.append(np.sum(error * error) / error.size)
        g = 2 * error / error.size
        dA, dB = s * (g @ B).T @ x, s * g.T @ (x @ A.T)
        A, B = A - lr * (dA + decay * A), B - lr * (dB + decay * B)
    got = rounded(case)
    for output, value in {"losses": np.array(losses), "A_after": A, "B_after": B}.items():
        np.testing.assert_array_equal(got[output], floats(value), strict=True)


def test_cross_entropy_is_correctly_rounded():
    case = case_of("cross_entropy", "ignored")
    with mpmath.workdps(60):
        total, n = mpmath.mpf(0), 0
        for b, row in enumerate(case["labels"]):
            for t, label in enumerate(row[1:]):
                if label != case.config["ignore_index"]:
                    z = [mpmath.mpf(float(v)) for v in case["logits"][b, t]]
                    total, n = total + mpmath.log(sum(map(mpmath.exp, z))) - z[label], n + 1
        assert float(rounded(case)["loss"]) == float(total / n)


def test_the_root_of_the_rank_has_all_digits():
    case = case_of("adapter_combine", "one-rslora")
    A, B = (np.vectorize(lambda v: mpmath.mpf(float(v)), otypes=[object])(case[n]) for n in ("A_1", "B_1"))
    with mpmath.workdps(60):
        weight = mpmath.mpf(case.config["weights"][0]) * case.config["alpha"][0] / mpmath.sqrt(case.config["r"][0])
        np.testing.assert_array_equal(rounded(case)["delta"], floats(weight * (B @ A)), strict=True)


def test_gelu_tanh_takes_its_constant_as_the_decimal_that_it_is():
    """The float nearest to 0.044715 would be off after 53 bits."""
    xp = HighPrecisionNamespace(200)
    y, _ = ops.gelu_tanh(xp.exact(np.array([0.0625, -3.0])))
    with mpmath.workprec(200):
        for z, got in zip((mpmath.mpf("0.0625"), mpmath.mpf(-3)), y, strict=True):
            u = mpmath.sqrt(2 / mpmath.pi) * (z + mpmath.mpf("0.044715") * z**3)
            assert abs(got - z * (1 + mpmath.tanh(u)) / 2) < mpmath.mpf(2) ** -190


@pytest.mark.slow
@pytest.mark.parametrize("contract", [c for c in CONTRACTS if c != "lora_dropout"])
def test_the_answers_in_float64_are_within_a_few_units_of_it(contract):
    for case in CONTRACTS[contract].cases("float32"):
        right, exact = right_answer(case, CONTRACTS[contract].answer), rounded(case)
        assert right.keys() == exact.keys()
        for name, one in right.items():
            if isinstance(one, Distribution):
                assert str(one) == str(exact[name])
            else:
                assert np.all(np.abs(one.value - exact[name]) <= 16 * 2.0**-53 * one.size), (case.id, name)


def by_logarithms(x):
    """x, the long way round."""
    xp = x.__array_namespace__()
    return xp.exp(xp.log(3 * x)) / 3


def test_zero_by_cancellation_is_zero():
    got = correctly_rounded(lambda t, config, d: {"y": by_logarithms(t["x"]) - t["x"]}, {"x": np.array([7.0, 0.1])}, {})
    np.testing.assert_array_equal(got["y"], [0.0, 0.0])


def test_a_tie_that_is_computed_inexactly_is_not_guessed():
    """2^53 + 1 lies half-way between two numbers of float64."""
    with pytest.raises(UncertainError, match="y: 4096 bits"):
        correctly_rounded(lambda t, config, d: {"y": by_logarithms(t["x"] * (2**53 + 1))}, {"x": np.array([1.0])}, {})
