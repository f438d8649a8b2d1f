"""Every op through every method that suits it."""

import numpy as np
import pytest
from gradcheck.cases import AFFINE, ALL, LORA, SMOOTH, normal
from hypothesis import given, settings
from hypothesis import strategies as st

from npl_lora import ops
from npl_lora.gradcheck import assert_gradients, gradcheck
from npl_lora.gradcheck._interface import OpUnderTest
from npl_lora.gradcheck.differences import _affine


def each(cases):
    return pytest.mark.parametrize(("op", "inputs"), cases.values(), ids=cases)


def test_every_op_has_a_case():
    names = {getattr(op, "__name__", "") for op, _ in ALL.values()}
    assert set(ops.__all__) - {"Pullback"} <= names


@each(ALL)
def test_complex_step(op, inputs):
    report = gradcheck(op, inputs)
    report.raise_if_failed()
    assert max(result.error for result in report.results) < 2e-14


@each(ALL)
def test_complex_step_along_directions(op, inputs):
    assert_gradients(op, inputs, directions=3, seed=4)


@each(SMOOTH)
def test_differences(op, inputs):
    # Two directions: every element of every op would take a minute, and softmax below has it.
    assert_gradients(op, inputs, method="differences", directions=2)


@pytest.mark.parametrize("name", ["softmax", "rms_norm", "gelu_tanh", "relu", "lora_linear"])
def test_differences_of_every_element(name):
    op, inputs = ALL[f"{name} first"]
    report = gradcheck(op, inputs, method="differences")
    report.raise_if_failed()
    assert max(result.error for result in report.results) < 1e-11


@each(ALL)
def test_adjoint(op, inputs):
    assert_gradients(op, inputs, method="adjoint", directions=3)


@each(AFFINE)
def test_affine_differences(op, inputs):
    assert_gradients(op, inputs, method="differences", affine=True)


@pytest.mark.parametrize(
    "name", ["linear first", "lora_linear first", "lora_embedding first", "merge first", "merge second"]
)
def test_affine_differences_reach_1e_13_in_norm(name):
    op, inputs = AFFINE[name]
    tested = OpUnderTest(op, inputs, {})
    tested.ask(normal(*tested.y.shape, seed=9))
    for x, (g,) in tested.gradients.items():
        differences = np.zeros_like(g)
        for i in np.ndindex(g.shape):
            unit = np.zeros_like(g)
            unit[i] = 1.0
            differences[i] = np.sum(tested.dy * _affine(tested, {x: unit})[0])
        assert np.linalg.norm(differences - g) <= 1e-13 * np.linalg.norm(g)


@each(AFFINE)
def test_exact(op, inputs):
    report = gradcheck(op, inputs, method="exact")
    report.raise_if_failed()
    assert "passes with probability < 2^-75" in str(report)


@settings(max_examples=25, deadline=None)
@given(
    batch=st.lists(st.integers(0, 3), max_size=2),
    sizes=st.tuples(*[st.integers(1, 4)] * 3),
    options=st.tuples(st.booleans(), st.booleans()),
    seed=st.integers(0, 1000),
)
def test_lora_linear_of_any_shape(batch, sizes, options, seed):
    n_in, n_out, r = sizes
    inputs = dict(x=normal(*batch, n_in), W=normal(n_out, n_in), A=normal(r, n_in), B=normal(n_out, r), scale=0.7)
    if options[0]:
        inputs["b"] = normal(n_out)
    if options[1]:
        inputs["mask"] = 2.0 * (normal(*batch, n_in, seed=7) > 0)
    for method in ("complex-step", "adjoint", "exact"):
        assert_gradients(ops.lora_linear, inputs, method=method, seed=seed)
    assert_gradients(ops.lora_linear, inputs, method="differences", affine=True, seed=seed)


def test_low_precision_is_widened_and_longdouble_kept():
    small = {n: v.astype(np.float32) if isinstance(v, np.ndarray) else v for n, v in LORA.items()}
    assert gradcheck(ops.lora_linear, small)
    long = {n: v.astype(np.longdouble) if isinstance(v, np.ndarray) else v for n, v in LORA.items()}
    report = gradcheck(ops.lora_linear, long, method="differences", directions=1)
    assert report
    assert report["x"].expected.dtype == np.longdouble


def test_the_exact_method_refuses_what_is_no_polynomial_of_integers():
    for name in ("attention", "mean_squared_error", "silu"):
        op, inputs = SMOOTH[f"{name} first"]
        report = gradcheck(op, inputs, method="exact")
        assert not report
        assert "Python integers" in str(report)
    arrays = {n: v for n, v in LORA.items() if n != "scale"}
    assert "among the inputs" in str(gradcheck(ops.lora_linear, arrays, method="exact", scale=0.5))


def test_affine_refuses_what_is_not():
    op, inputs = SMOOTH["attention first"]
    report = gradcheck(op, inputs, method="differences", affine=True)
    assert report["v"].ok
    assert "not affine" in report["q"].note


@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="longdouble is float64 here")
@pytest.mark.parametrize("options", [dict(), dict(directions=2), dict(method="adjoint")])
def test_saturated_softmax_is_rounding_and_a_fault_in_it_is_not(options):
    def wrong(q, k, v):
        y, right = ops.attention(q, k, v)
        return y, lambda dy: right(dy) | {"v": 1.001 * right(dy)["v"]}

    inputs = {name: 10.0 * normal(2, 3, 4, seed=seed) for seed, name in enumerate("qkv")}
    assert_gradients(ops.attention, inputs, **options)
    report = gradcheck(wrong, inputs, **options)
    assert [result.name for result in report.results if not result.ok] == ["v"]
