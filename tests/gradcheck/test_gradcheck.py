"""The call itself: readers' own functions, the printed table, bad arguments."""

import subprocess
import sys

import numpy as np
import pytest
from gradcheck.cases import LORA, normal

from npl_lora import ops
from npl_lora.gradcheck import METHODS, assert_gradients, gradcheck


def product(x, w, n=1, mask=None):
    """A reader's own function, its pullback a bare closure."""
    y = np.sum(x * w) * n
    return y, lambda dy: {"x": dy * w * n, "w": dy * x * n}


@pytest.mark.parametrize("method", METHODS)
def test_a_bare_closure(method):
    inputs = dict(x=normal(3, 4), w=normal(3, 4, seed=1), n=3, mask=np.array([True]))
    assert_gradients(product, inputs, method=method)
    report = gradcheck(product, inputs | dict(mask=normal(2)), method=method)
    assert "no gradient was returned" in report["mask"].note


def test_arrays_in_config_are_constants():
    report = gradcheck(product, dict(x=normal(3)), w=normal(3, seed=1))
    assert report
    assert [result.name for result in report.results] == ["x"]
    assert "held constant, and not checked: w" in str(report)


def test_the_table():
    report = gradcheck(ops.lora_linear, LORA)
    lines = str(report).splitlines()
    assert lines[0] == "gradcheck of lora_linear by complex-step: ok"
    assert lines[1].split() == ["input", "ok", "error", "at", "expected", "got"]
    assert [line.split()[:2] for line in lines[2:]] == [[name, "yes"] for name in ("x", "A", "B", "W", "b")]
    with pytest.raises(KeyError):
        report["mask"]


def test_frozen_inputs_are_checked_too():
    assert {"W", "b"} <= {result.name for result in gradcheck(ops.lora_linear, LORA).results}


def test_the_same_seed_gives_the_same_report():
    for method in METHODS:
        assert str(gradcheck(ops.lora_linear, LORA, method=method)) == str(
            gradcheck(ops.lora_linear, LORA, method=method)
        )


def test_inputs_stay_as_they_were():
    before = {name: np.copy(value) for name, value in LORA.items()}
    for method in METHODS:
        gradcheck(ops.lora_linear, LORA, method=method, **({} if method == "exact" else {"directions": 1}))
    for name, value in LORA.items():
        np.testing.assert_array_equal(value, before[name])


def test_dy_may_be_given():
    assert gradcheck(ops.silu, dict(z=normal(3)), dy=[1, 2, 3])
    with pytest.raises(ValueError, match=r"dy has shape \(2,\), expected y's \(3,\)"):
        gradcheck(ops.silu, dict(z=normal(3)), dy=normal(2))


def on_integers(z):
    return ops.silu(z * 1.0)


Z = dict(z=normal(3))
BAD = {
    "method": (ValueError, "method is 'magic', expected one of", (ops.silu, Z), dict(method="magic")),
    "op": (TypeError, "op is None", (None, Z), {}),
    "inputs": (TypeError, "inputs is a tuple, expected a mapping", (ops.silu, (normal(3),)), {}),
    "nothing to differentiate": (ValueError, "nothing to differentiate", (product, dict(x=1.0, w=2.0)), {}),
    "integers": (
        ValueError,
        "differentiates z: it is an array of int64",
        (on_integers, dict(z=np.arange(3))),
        {},
    ),
    "complex": (TypeError, "z is an array of complex128", (ops.silu, dict(z=normal(3) + 0j)), {}),
    "no pair": (TypeError, "op returned an array of float64", (lambda x: x, dict(x=normal(3))), {}),
    "directions": (ValueError, "directions is 0", (ops.silu, Z), dict(directions=0)),
    "rtol": (ValueError, "rtol is 2", (ops.silu, Z), dict(rtol=2)),
    "affine": (ValueError, "affine is given with method 'complex-step'", (ops.silu, Z), dict(affine=True)),
    "exact": (ValueError, "has no tolerance", (ops.silu, Z), dict(method="exact", rtol=1e-3)),
}


@pytest.mark.parametrize(("error", "sentence", "arguments", "options"), BAD.values(), ids=BAD)
def test_bad_arguments(error, sentence, arguments, options):
    with pytest.raises(error, match=sentence):
        gradcheck(*arguments, **options)


def test_an_error_of_the_op_is_passed_on():
    with pytest.raises(ValueError, match="A has shape"):
        gradcheck(ops.lora_linear, LORA | dict(A=normal(2, 4)))


def test_a_pullback_that_returns_no_mapping():
    report = gradcheck(lambda x: (x * 2, lambda dy: 2 * dy), dict(x=normal(3)))
    assert not report
    assert "expected a mapping" in str(report)


def test_it_imports_numpy_and_nothing_of_the_project():
    code = "import sys, npl_lora.gradcheck; print(sorted(m for m in sys.modules if m.startswith('npl_lora.')))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(name.strip(" '[]\n").startswith("npl_lora.gradcheck") for name in out.split(","))
