"""Planted faults: each is caught, laid at the right input's door, and called what it is."""

import numpy as np
import pytest
from gradcheck.cases import LORA, normal

from npl_lora import ops
from npl_lora.gradcheck import METHODS, gradcheck

SQUARE = dict(x=normal(4, 3), W=normal(3, 3), A=normal(3, 3), B=normal(3, 3, seed=1), scale=2.0)


def faulty(change, op=ops.lora_linear):
    """op, with change(grads, dy, given inputs) applied to what its pullback returns (or in place)."""

    def lora(**inputs):
        y, right = op(**inputs)

        def pullback(dy, wrt=None):
            grads = right(dy, wrt=wrt)
            return change(grads, dy, inputs) or grads

        pullback.inputs, pullback.frozen = right.inputs, right.frozen
        return y, pullback

    return lora


def put(name, function):
    """A change of one gradient."""

    def change(grads, dy, inputs):
        if name in grads:
            grads[name] = function(grads[name])

    return faulty(change)


def failures(report):
    return {result.name for result in report.results if not result.ok}


def one_element(g):
    g = g.copy()
    g[1, 0] *= 2
    return g


WRONG = {
    "the scale twice": (put("B", lambda g: 2 * g), "2 times what is expected"),
    "the sign": (put("B", lambda g: -g), "-1 times what is expected"),
    "transposed": (put("B", lambda g: g.T), ""),
    "zero": (put("B", lambda g: 0 * g), "gradient is zero"),
    "one element": (put("B", one_element), ""),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("op", "note"), WRONG.values(), ids=WRONG)
def test_wrong_values(op, note, method):
    report = gradcheck(op, SQUARE, method=method)
    assert failures(report) == {"B"}
    assert note in report["B"].note
    with pytest.raises(AssertionError, match=r"B +NO"):
        report.raise_if_failed()


def test_notes_of_whole_arrays():
    assert gradcheck(WRONG["the scale twice"][0], SQUARE)["B"].note == "everywhere 2 times what is expected"
    assert gradcheck(WRONG["the sign"][0], SQUARE)["B"].note == "everywhere -1 times what is expected"
    assert gradcheck(WRONG["transposed"][0], SQUARE)["B"].note == "the transpose would be right"
    one = gradcheck(WRONG["one element"][0], SQUARE)["B"]
    assert one.note == "1 of 9 values are wrong"
    assert one.index == (1, 0)
    assert one.got == pytest.approx(2 * one.expected)
    exact = gradcheck(WRONG["the scale twice"][0], SQUARE, method="exact")["B"]
    assert exact.note == "exactly 2 times what is expected along a random direction"


@pytest.mark.parametrize("method", METHODS)
def test_missing_scale(method):
    def lora(x, W, A, B, *, scale):
        y, right = ops.lora_linear(x, W, A, B, scale=scale)

        def pullback(dy):
            return right(dy, wrt=right.inputs) | {"B": dy.T @ (x @ A.T)}

        return y, pullback

    assert failures(gradcheck(lora, SQUARE, method=method)) == {"B"}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("missing", ["left out", "None", "KeyError"])
def test_missing_gradient(missing, method):
    def leave_out(grads, dy, inputs):
        if missing == "KeyError" and "B" in grads:
            raise KeyError("B")
        if missing == "None":
            return {name: None if name == "B" else g for name, g in grads.items()}
        return {name: g for name, g in grads.items() if name != "B"} or {"B": None}

    report = gradcheck(faulty(leave_out), SQUARE, method=method)
    assert not report
    assert "no gradient was returned" in report["B"].note


@pytest.mark.parametrize("method", METHODS)
def test_names_and_shapes(method):
    extra = gradcheck(faulty(lambda grads, dy, inputs: grads | {"C": dy}), SQUARE, method=method)
    assert not extra
    assert "'C'" in extra.faults[0]
    assert "not asked for" in str(gradcheck(faulty(lambda g, dy, i: g | {"W": dy.T @ i["x"]}), SQUARE))
    shaped = gradcheck(put("B", lambda g: g[:2]), SQUARE, method=method)
    assert failures(shaped) >= {"B"}
    assert "shape (2, 3), expected (3, 3)" in shaped["B"].note


@pytest.mark.parametrize("method", METHODS)
def test_writing_into_what_was_given(method):
    def write_x(grads, dy, inputs):
        inputs["x"][0, 0] += 1

    def write_dy(grads, dy, inputs):
        dy *= 2

    def forward_writes(x, W, A, B, *, scale):
        y = ops.lora_linear(x, W, A, B, scale=scale)
        W += 1
        return y

    assert "the pullback changes this input" in gradcheck(faulty(write_x), SQUARE, method=method)["x"].note
    assert gradcheck(faulty(write_dy), SQUARE, method=method).faults == ("the pullback changes dy",)
    assert "the forward changes this input" in gradcheck(forward_writes, SQUARE, method=method)["W"].note


@pytest.mark.parametrize("method", METHODS)
def test_state(method):
    def accumulating(x, W, A, B, *, scale):
        y, right = ops.lora_linear(x, W, A, B, scale=scale)
        total = np.zeros_like(B)

        def pullback(dy):
            nonlocal total
            grads = right(dy, wrt=right.inputs)
            total += grads["B"]
            return grads | {"B": total}

        return y, pullback

    calls = []

    def counting(x, W, A, B, *, scale):
        calls.append(1)
        y, right = ops.lora_linear(x, W, A, B, scale=scale)
        return y + len(calls), right

    report = gradcheck(accumulating, SQUARE, method=method)
    assert "a second call of the pullback" in report["B"].note
    assert failures(report) == {"B"}
    assert any("a second call of the op" in fault for fault in gradcheck(counting, SQUARE, method=method).faults)


@pytest.mark.parametrize("method", ["complex-step", "differences", "adjoint"])
def test_nan_and_infinity_never_pass(method):
    for bad in (np.nan, np.inf):

        def spoil(g, bad=bad):
            g = g.copy()
            g[0, 1] = bad
            return g

        for directions in (None, 2):
            with np.errstate(invalid="ignore"):
                report = gradcheck(put("B", spoil), SQUARE, method=method, directions=directions)
            assert "B" in failures(report), str(report)


@pytest.mark.parametrize("method", METHODS)
def test_zero_dy(method):
    report = gradcheck(put("B", lambda g: g + 1), SQUARE, method=method)
    assert "a zero dy" in report["B"].note


def test_a_relative_error_of_1e_9_that_plain_differences_miss():
    op = put("B", lambda g: g * (1 + 1e-9))
    y, pullback = op(**SQUARE)
    dy = np.ones_like(y)
    h = np.zeros((3, 3))
    h[0, 0] = 1e-6
    plus, minus = (op(**SQUARE | dict(B=SQUARE["B"] + s * h))[0] for s in (1, -1))
    difference = np.sum(dy * (plus - minus)) / 2e-6
    assert abs(pullback(dy)["B"][0, 0] - difference) < 1e-8 * abs(difference)
    for method in ("complex-step", "adjoint"):
        assert failures(gradcheck(op, SQUARE, method=method)) == {"B"}


def test_faults_in_one_way_of_asking_only():
    def only_by_default(grads, dy, inputs):
        if set(grads) == {"x", "A", "B"}:
            grads["B"] = 2 * grads["B"]

    for method in METHODS:
        assert failures(gradcheck(faulty(only_by_default), SQUARE, method=method)) == {"B"}


def real_part(x):
    return x.real**2, lambda dy: {"x": 2 * dy * x}


def absolute(x):
    return np.abs(x), lambda dy: {"x": dy * np.sign(x)}


def cast(x):
    return x.astype(float) ** 2, lambda dy: {"x": 2 * dy * x}


def float_buffer(x):
    y = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        y[i] = x[i] ** 2
    return y, lambda dy: {"x": 2 * dy * x}


def norm_by_abs(x):
    """Complex result, real norm: a part of the derivative is lost, and the pullback forgets the same part."""
    q = np.sqrt(np.sum(np.abs(x) ** 2))
    return x / q, lambda dy: {"x": dy / q}


UNSAFE = (real_part, absolute, cast, float_buffer, norm_by_abs)


@pytest.mark.parametrize("op", UNSAFE)
def test_a_forward_that_is_not_complex_safe_is_called_so(op):
    for options in (dict(), dict(directions=2), dict(method="adjoint")):
        report = gradcheck(op, dict(x=normal(3, 4)), **options)
        assert not report
        assert "not complex-safe" in str(report)
        assert "method='differences'" in str(report)
    assert bool(gradcheck(op, dict(x=normal(3, 4)), method="differences")) == (op is not norm_by_abs)


def test_the_degree_is_checked():
    def fifth_power(x):
        return x**5, lambda dy: {"x": 5 * dy * x**4}

    def fourth_power(x):
        return x**4, lambda dy: {"x": 4 * dy * x**3}

    inputs = dict(x=normal(3))
    assert "degree <= 4" in gradcheck(fifth_power, inputs, method="exact")["x"].note
    assert gradcheck(fourth_power, inputs, method="exact")


def test_numpy_integers_do_not_pass_for_exact():
    def lora(x):
        return x * 3, lambda dy: {"x": np.array([3, 3])}

    assert "int64" in gradcheck(lora, dict(x=normal(2)), method="exact")["x"].note


def test_kinks():
    at_the_kink = dict(z=np.array([1e-7, 0.5, -0.3]))
    assert gradcheck(ops.relu, at_the_kink)  # each stands on its own side
    assert "do not settle" in gradcheck(ops.relu, at_the_kink, method="differences")["z"].note


def test_bias_that_is_tiny_beside_y():
    inputs = LORA | dict(b=1e-9 * LORA["b"])
    for options in (dict(), dict(method="differences", affine=True), dict(method="exact")):
        assert gradcheck(ops.lora_linear, inputs, **options)
