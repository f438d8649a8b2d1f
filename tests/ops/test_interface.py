"""The one interface: strides, dtypes, namespaces, wrt, repeated calls."""

import array_api_strict
import numpy as np
import pytest
from agreement import assert_close, call, cotangent, naive_answer, term_sizes, values
from configurations import DIMS, FIRST, OPS, POLYNOMIALS, SECOND, build, each_point, points_of
from hypothesis import given, settings
from hypothesis import strategies as st
from light import light
from scalars import FloatMath

from npl_lora import ops

# The newest revision that is no draft, and none of what a namespace may leave out.
NEWEST = array_api_strict._flags.supported_versions[-1]
WITHOUT = {"boolean_indexing": False, "data_dependent_shapes": False, "enabled_extensions": ()}
FLOATS = ["float16", "float32", "float64", "longdouble"]


def floating(inputs):
    return [n for n, a in inputs.items() if a.dtype.kind == "f"]


def _strided(a):
    wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype) if a.ndim else a
    if a.ndim:
        wide[..., ::2] = a
        return wide[..., ::2]
    return wide


def _read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


LAYOUTS = {
    "strided": _strided,
    "fortran": lambda a: np.asfortranarray(a).reshape(a.shape),  # NumPy makes shape () into (1,)
    "reversed": lambda a: np.flip(np.flip(a).copy()),
    "read-only": _read_only,
}


@pytest.mark.parametrize("name", OPS)
@settings(max_examples=20)
@given(d=DIMS, layouts=st.lists(st.sampled_from(list(LAYOUTS)), min_size=1, max_size=4))
def test_any_layout_gives_the_same_and_nothing_is_changed(name, d, layouts):
    inputs, config = build(name, d)
    y, grads, dy = call(name, inputs, config)
    laid = {n: LAYOUTS[layouts[k % len(layouts)]](a) for k, (n, a) in enumerate(inputs.items())}
    before = {n: a.tobytes() for n, a in laid.items()}
    y2, pullback = getattr(ops, name)(**laid, **config)
    laid_dy = LAYOUTS[layouts[0]](dy)
    grads2 = pullback(laid_dy, wrt=pullback.inputs)
    y_size, sizes = term_sizes(name, inputs, config, dy, with_arguments=True)
    assert_close(y2, y, y_size, 1e-14, "y")
    for n in grads:
        assert_close(grads2[n], grads[n], sizes[n], 1e-14, f"d{n}")
    assert before == {n: a.tobytes() for n, a in laid.items()}
    assert laid_dy.tobytes() == dy.tobytes()


@pytest.mark.parametrize("name", OPS)
@settings(max_examples=15)
@given(d=DIMS)
def test_the_pullback_may_be_called_again(name, d):
    inputs, config = build(name, d)
    y, pullback = getattr(ops, name)(**inputs, **config)
    dy = cotangent(y)
    first, other, second = pullback(dy), pullback(2 * dy), pullback(dy)
    for n in first:
        assert first[n].tobytes() == second[n].tobytes()
        np.testing.assert_array_equal(other[n], 2 * first[n])  # a power of two scales every term exactly


@pytest.mark.parametrize("dtype", light(FLOATS, 2))
@each_point()
def test_the_dtype_follows_the_inputs(name, dtype, point):
    """Each result is stored in the dtype of the inputs, and off by no more than that dtype's rounding: 60 units of S,
    for no path through these small blocks has more than 60 roundings."""
    inputs, config = build(name, point)
    for n in floating(inputs):
        inputs[n] = inputs[n].astype(np.float16)
    narrow = {n: a.astype(dtype) if a.dtype.kind == "f" else a for n, a in inputs.items()}
    wide = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in inputs.items()}
    y, pullback = getattr(ops, name)(**narrow, **config)
    wide_y, wide_pullback = getattr(ops, name)(**wide, **config)
    dy = cotangent(wide_y).astype(np.float16)
    grads = pullback(dy.astype(dtype), wrt=pullback.inputs)
    wide_dy = dy.astype(np.float64)
    wide_grads = wide_pullback(wide_dy, wrt=pullback.inputs)
    y_size, sizes = term_sizes(name, wide, config, wide_dy, with_arguments=True)
    unit = max(float(np.finfo(dtype).eps), 2.0**-52) * 60
    tiny = float(np.finfo(dtype).smallest_subnormal) * 60  # underflow; times a weight of at most 10
    for what, got, right, size in [("y", y, wide_y, y_size)] + [(n, grads[n], wide_grads[n], sizes[n]) for n in grads]:
        assert got.dtype == np.dtype(dtype), (what, got.dtype)
        assert np.all(np.abs(got.astype(np.float64) - right) <= unit * size + 10 * tiny), what


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_numbers_stay_what_they_are(name, dtype):
    inputs, config = build(name, FIRST)
    given = {n: a.astype(dtype) if a.dtype.kind == "f" else a for n, a in inputs.items()}
    y, pullback = getattr(ops, name)(**given, **config)
    dy = cotangent(y)
    real_y, real_pullback = getattr(ops, name)(**inputs, **config)
    real_dy = np.real(dy).astype(np.float64)
    grads, real_grads = pullback(dy, wrt=pullback.inputs), real_pullback(real_dy, wrt=pullback.inputs)
    y_size, sizes = term_sizes(name, inputs, config, real_dy, with_arguments=True)
    unit = 60 * np.finfo(dtype).eps  # as for the real dtypes, above
    for what, got, right, size in [("y", y, real_y, y_size)] + [(n, grads[n], real_grads[n], sizes[n]) for n in grads]:
        assert got.dtype == dtype, what
        assert not got.imag.any(), what
        assert np.all(np.abs(got.real - right) <= unit * size), what


@pytest.mark.parametrize("dtype", light(["float64", "float32", "complex128"]))
@each_point()
def test_any_array_namespace(name, dtype, point):
    inputs, config = build(name, point)
    given = {n: a.astype(dtype) if a.dtype.kind == "f" else a for n, a in inputs.items()}
    y, pullback = getattr(ops, name)(**given, **config)
    dy = cotangent(y)
    grads = pullback(dy, wrt=pullback.inputs)
    with array_api_strict.ArrayAPIStrictFlags(api_version=NEWEST, **WITHOUT):
        strict = {n: array_api_strict.asarray(a) for n, a in given.items()}
        strict_y, strict_pullback = getattr(ops, name)(**strict, **config)
        strict_grads = strict_pullback(array_api_strict.asarray(dy), wrt=pullback.inputs)
    y_size, sizes = term_sizes(name, inputs, config, np.real(dy).astype(np.float64), with_arguments=True)
    unit = 20 * np.finfo(dtype).eps
    for what, got, right, size in [("y", strict_y, y, y_size)] + [
        (n, strict_grads[n], grads[n], sizes[n]) for n in grads
    ]:
        assert got.__array_namespace__() is array_api_strict
        as_numpy = np.asarray(got)
        assert as_numpy.dtype == right.dtype, what
        assert np.all(np.abs(as_numpy - right) <= unit * size), what


@pytest.mark.parametrize("name", POLYNOMIALS)
@settings(max_examples=15)
@given(d=DIMS)
def test_polynomials_run_on_python_integers(name, d):
    inputs, config = build(name, d)
    rng = np.random.default_rng(d["seed"])

    def integers(shape):
        return np.array([int(v) << 70 for v in rng.integers(-99, 99, size=int(np.prod(shape)))], object).reshape(shape)

    whole = {n: integers(a.shape) if a.dtype.kind == "f" else a for n, a in inputs.items()}
    several = len(config.get("scales", ()))
    whole_config = {"scale": 3, "weights": [2, -3, 5][:several], "scales": [-7, 4, 3][:several]}
    config = config | {n: v for n, v in whole_config.items() if n in config}
    y, pullback = getattr(ops, name)(**whole, **config)
    dy = integers(y.shape)
    grads = pullback(dy, wrt=pullback.inputs)
    naive_y, naive_grads = naive_answer(IntegerMath, name, whole, config, dy)
    assert np.array_equal(y, naive_y)
    for n in grads:
        assert np.array_equal(grads[n], naive_grads[n]), n


class IntegerMath(FloatMath):
    number = staticmethod(int)


@each_point("first", "second")
def test_wrt_computes_what_is_named_and_nothing_else(name, point):
    inputs, config = build(name, point)
    y, pullback = getattr(ops, name)(**inputs, **config)
    dy = cotangent(y)
    full = pullback(dy, wrt=pullback.inputs)
    assert list(full) == list(pullback.inputs)
    assert set(pullback(dy)) == set(pullback.inputs) - set(pullback.frozen)
    assert pullback(dy, wrt=()) == {}
    for n in full:
        assert full[n].shape == inputs[n].shape
        alone = pullback(dy, wrt=(n,))
        assert list(alone) == [n]
        np.testing.assert_array_equal(alone[n], full[n])
        rest = pullback(dy, wrt=[other for other in full if other != n])
        assert n not in rest
        for other in rest:
            np.testing.assert_array_equal(rest[other], full[other])


@pytest.mark.parametrize("name", OPS)
@given(data=st.data())
@settings(max_examples=30)
def test_any_subset_of_wrt_is_that_part_of_the_whole(name, data):
    """Most ops have few enough inputs for 30 draws to meet every subset."""
    inputs, config = build(name, data.draw(st.sampled_from(list(points_of(name).values()))))
    y, pullback = getattr(ops, name)(**inputs, **config)
    dy = cotangent(y)
    wrt = data.draw(st.sets(st.sampled_from(pullback.inputs)))
    full, part = pullback(dy, wrt=pullback.inputs), pullback(dy, wrt=wrt)
    assert set(part) == wrt
    for n in wrt:
        np.testing.assert_array_equal(part[n], full[n])


@pytest.mark.parametrize("name", OPS)
def test_a_zero_gradient_comes_back_as_zero(name):
    inputs, config = build(name, SECOND)
    y, pullback = getattr(ops, name)(**inputs, **config)
    for grad in pullback(np.zeros_like(y), wrt=pullback.inputs).values():
        assert not grad.any()


def test_values_reads_scalars():
    assert values(np.array([1, 2.5], dtype=object)).tolist() == [1.0, 2.5]
