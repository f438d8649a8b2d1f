"""erf, erfc, erfcx, exp(-x^2 / 2) and Phi against mpmath with 50 digits; their dtypes, shapes and limits."""

import math
import runpy
from pathlib import Path

import array_api_strict
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npl_lora.ops import _erf

EVERY = (_erf.erf, _erf.erfc, _erf.erfcx_nonneg, _erf.exp_minus_half_square, _erf.normal_cdf)
DTYPES = (np.float16, np.float32, np.float64, np.longdouble, np.complex64, np.complex128)
STEP = 1e-30


def true_erfcx(x):
    return mp.exp(x * x) * mp.erfc(x)


def true_exp(x):
    return mp.exp(-x * x / 2)


def true_cdf(x):
    return mp.erfc(-x / mp.sqrt(2)) / 2


def erf_slope(x):
    return 2 / mp.sqrt(mp.pi) * mp.exp(-x * x)


def erfcx_slope(x):
    return 2 * x * true_erfcx(x) - 2 / mp.sqrt(mp.pi)


# function, truth, true derivative, interval
CASES = {
    "erf": (_erf.erf, mp.erf, erf_slope, (-6.5, 6.5)),
    "erfc": (_erf.erfc, mp.erfc, lambda x: -erf_slope(x), (-6.5, 27.3)),
    "erfcx": (_erf.erfcx_nonneg, true_erfcx, erfcx_slope, (0.0, 60.0)),
    "exp": (_erf.exp_minus_half_square, true_exp, lambda x: -x * true_exp(x), (-38.7, 38.7)),
    "cdf": (_erf.normal_cdf, true_cdf, lambda x: true_exp(x) / mp.sqrt(2 * mp.pi), (-38.6, 9.0)),
}
# the parts of the tables that erfc uses, each with one coefficient changed
CHANGED = {
    "_NEAR": (*_erf._NEAR[:2], tuple(1.01 * c for c in _erf._NEAR[2]), *_erf._NEAR[3:]),
    "_FAR": (_erf._FAR[0], 1.01 * _erf._FAR[1], *_erf._FAR[2:]),
}


def points(low, high, n):
    """Random points, tiny ones, and the seams of the method with their neighbours."""
    rng = np.random.default_rng(0)
    seams = np.arange(-160, 161) / 4 * np.array([[1.0], [math.sqrt(2.0)]])
    seams = np.concatenate([np.nextafter(seams, -99.0), seams, np.nextafter(seams, 99.0)], axis=None)
    tiny = np.array([s * 10.0**-k for k in (1, 3, 8, 16, 100, 300, 310, 323) for s in (-1.0, 1.0)])
    x = np.concatenate([rng.uniform(low, high, n), seams, tiny])
    return x[(low <= x) & (x <= high)]


@pytest.mark.parametrize("name", CASES)
def test_accuracy_within_2_ulp(name):
    f, truth, _, (low, high) = CASES[name]
    x = points(low, high, 600)
    with mp.workdps(50):
        for got, at in zip(f(x), x, strict=True):
            true = truth(mp.mpf(float(at)))
            assert abs(mp.mpf(float(got)) - true) <= 2 * mp.mpf(math.ulp(float(true))), at


@pytest.mark.parametrize("name", ["exp", "cdf"])
def test_float32_is_the_nearest_or_next_to_it(name):
    """The shorter way of float32, with 4e-10 before the one rounding to 2^-24: everywhere that float32 has, and where
    it has nothing."""
    f, truth, _, _ = CASES[name]
    x = points(-15.0, 15.0, 2000).astype(np.float32)
    with mp.workdps(30):
        for got, at in zip(f(x), x, strict=True):
            true = truth(mp.mpf(float(at)))
            assert abs(mp.mpf(float(got)) - true) <= (0.5 + 2.0**-6) * float(np.spacing(np.float32(true))), at
    np.testing.assert_array_equal(f(np.float32([-np.inf, -1e30, -20])), 0)


def test_blocks_are_put_together_again():
    x = np.random.default_rng(0).standard_normal(2 * _erf._BLOCK + 3)
    for f in EVERY[:2] + EVERY[3:]:
        for dtype in (np.float32, np.float64):
            whole, some = f(x.astype(dtype)), np.concatenate([f(part.astype(dtype)) for part in np.array_split(x, 7)])
            np.testing.assert_array_equal(whole, some)


@pytest.mark.parametrize("name", CASES)
def test_the_complex_step_gives_the_derivative(name):
    f, _, derivative, (low, high) = CASES[name]
    x = points(low, high, 300)
    y = f(x + STEP * 1j)
    with mp.workdps(50):
        true = np.array([float(derivative(mp.mpf(float(at)))) for at in x])
    smallest = 1e-308 / STEP  # below this, the imaginary part is subnormal
    np.testing.assert_allclose(y.imag / STEP, true, rtol=2e-15, atol=smallest)
    np.testing.assert_allclose(y.real, f(x), rtol=1e-15, atol=0)


def test_the_complex_step_differentiates_the_approximation():
    """A wrong coefficient must show in the derivative: it is not put in by formula."""
    x = np.asarray([0.3, 1.2, 7.0])
    right = _erf.erfc(x + STEP * 1j).imag
    with pytest.MonkeyPatch.context() as patch:
        for name, table in CHANGED.items():
            patch.setattr(_erf, name, table)
        wrong = _erf.erfc(x + STEP * 1j).imag
    assert (abs(wrong / right - 1) > 1e-5).all()


def test_specials():
    inf, nan = math.inf, math.nan
    x = np.asarray([-inf, -1e300, -0.0, 0.0, 1e300, inf])
    np.testing.assert_array_equal(_erf.erf(x), [-1, -1, -0.0, 0.0, 1, 1])
    np.testing.assert_array_equal(np.signbit(_erf.erf(x)), [True, True, True, False, False, False])
    np.testing.assert_array_equal(_erf.erfc(x), [2, 2, 1, 1, 0, 0])
    np.testing.assert_array_equal(_erf.normal_cdf(x), [0, 0, 0.5, 0.5, 1, 1])
    np.testing.assert_array_equal(_erf.exp_minus_half_square(x), [0, 0, 1, 1, 0, 0])
    far = 1e-300 / math.sqrt(math.pi)
    np.testing.assert_allclose(_erf.erfcx_nonneg(x), [nan, nan, 1, 1, far, 0], rtol=1e-15)
    for f in EVERY:
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            assert np.isnan(f(np.asarray(nan)))
            assert np.isnan(f(np.asarray(complex(nan, 0.0))))
            np.testing.assert_allclose(f(x + 0j).real, f(x), rtol=1e-15)
            assert not f(x + 0j).imag.any()


def test_erfcx_far_out_is_one_over_x():
    x = np.asarray([1e7, 2.0**27 - 1.0, 2.0**27, 2.0**27 + 1.0, 1e12, 1e150])
    true = (1.0 - 0.5 / (x * x)) / (math.sqrt(math.pi) * x)
    y = _erf.erfcx_nonneg(x + STEP * 1j)
    np.testing.assert_allclose(y.real, true, rtol=1e-15)
    np.testing.assert_allclose(y.imag[:-1] / STEP, (-true / x)[:-1], rtol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("f", EVERY)
def test_numpy_dtypes(f, dtype):
    x = np.linspace(0.0, 3.0, 24, dtype=dtype).reshape(2, 3, 4)
    x.flags.writeable = False
    y = f(x)
    assert y.dtype == dtype
    assert y.shape == x.shape
    eps = max(float(np.finfo(dtype).eps), 2.0**-52)
    np.testing.assert_allclose(y, f(x.real.astype(np.float64)), rtol=2 * eps)


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (2, 0, 1)])
@pytest.mark.parametrize("f", EVERY)
def test_shapes(f, shape):
    y = f(np.ones(shape))
    assert isinstance(y, np.ndarray)
    assert y.shape == shape
    strided = np.arange(24.0).reshape(4, 6)[::-2, ::3]
    np.testing.assert_array_equal(f(strided), f(strided.copy()))


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("f", EVERY)
def test_array_api_strict(f, dtype):
    line = np.linspace(0.0, 9.0, 20, dtype=dtype)
    for x in (line.reshape(4, 5), line[3].reshape(()), line[:0].reshape(0, 2)):
        y = f(array_api_strict.asarray(x))
        assert y.dtype == getattr(array_api_strict, dtype)
        assert y.shape == x.shape
        np.testing.assert_array_equal(np.asarray(y), f(x))


@given(st.floats(allow_nan=False))
def test_erf_is_odd_and_erfc_is_its_complement(value):
    x = np.asarray(value)
    np.testing.assert_array_equal(_erf.erf(-x), -_erf.erf(x))
    assert abs(_erf.erf(x) + _erf.erfc(x) - 1.0) <= 2.0**-51
    assert abs(_erf.normal_cdf(x) + _erf.normal_cdf(-x) - 1.0) <= 2.0**-53


@given(st.floats(-40.0, 40.0), st.floats(1e-12, 1.0))
def test_values_stay_in_bounds_and_in_order(value, gap):
    x = np.asarray([value, value + gap])
    for y, least, most in ((_erf.erf(x), -1, 1), (2 - _erf.erfc(x), 0, 2), (_erf.normal_cdf(x), 0, 1)):
        assert (least <= y).all()
        assert (y <= most).all()
        assert y[1] >= y[0] * (1 - 2.0**-50 * np.sign(y[0]))


@given(st.floats(-37.0, 37.0))
def test_the_normal_density_is_the_derivative_of_the_normal_cdf(value):
    x = np.asarray(value)
    density = _erf.exp_minus_half_square(x) / math.sqrt(2.0 * math.pi)
    slope = _erf.normal_cdf(x + STEP * 1j).imag / STEP
    np.testing.assert_allclose(slope, density, rtol=2e-15, atol=1e-308 / STEP)


def test_the_tables_are_those_of_the_script():
    script = runpy.run_path(str(Path(__file__).with_name("make_erf_coefficients.py")))
    assert script["tables"]() in Path(_erf.__file__).read_text(encoding="utf-8")
