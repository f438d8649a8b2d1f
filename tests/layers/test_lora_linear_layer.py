"""LoRALinear: it counts, starts as its base, wires its arrays into the op, merges and comes back."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npl_lora import ops
from npl_lora.layers import LoRALinear
from npl_lora.lora import counter_rng, dropout_mask

SIZE = st.integers(1, 9)
LEADING = st.lists(st.integers(0, 4), max_size=3).map(tuple)


def trained(layer: LoRALinear) -> LoRALinear:
    """The layer with a B that is not zero, as after some training."""
    layer.B[...] = np.random.default_rng(7).standard_normal(layer.B.shape)
    return layer


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def test_the_layer_of_the_course():
    layer = LoRALinear(in_features=512, out_features=512, rank=4, rng=0)
    y, pullback = layer(np.ones((2, 10, 512), np.float32))
    assert y.shape == (2, 10, 512)
    assert y.dtype == np.float32
    assert list(pullback(y)) == ["x", "A", "B"]
    assert (layer.n_trainable, layer.n_frozen) == (4_096, 262_144)
    assert layer.scale == 1.0
    expected = "in_features=512, out_features=512, rank=4, alpha=4, scale=1.0, trainable 4,096 of 266,240 (1.5%)"
    assert repr(layer) == f"LoRALinear({expected})"


@given(SIZE, SIZE, SIZE, st.booleans())
def test_counts(in_, out, r, bias):
    layer = LoRALinear(in_, out, r, bias=bias, rng=0)
    assert layer.n_trainable == r * (in_ + out)
    assert layer.n_frozen == in_ * out + bias * out
    assert {name: a.shape for name, a in layer.trainable.items()} == {"A": (r, in_), "B": (out, r)}
    assert {name: a.shape for name, a in layer.frozen.items()} == {
        "W": (out, in_),
        **({"b": (out,)} if bias else {}),
    }


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_everything_has_the_dtype_of_the_layer(dtype):
    layer = trained(LoRALinear(5, 4, 3, alpha=7, use_rslora=True, dropout=0.5, bias=True, rng=0, dtype=dtype))
    x = np.ones((2, 5), dtype)
    y, pullback = layer(x, rng=np.random.default_rng(0))
    arrays = [*layer.trainable.values(), *layer.frozen.values(), y, *pullback(y).values()]
    assert {a.dtype for a in arrays} == {np.dtype(dtype)}
    layer.merge()
    assert layer(x)[0].dtype == dtype


@pytest.mark.parametrize("init", ["course", "kaiming", "gaussian"])
@pytest.mark.parametrize("bias", [False, True])
def test_a_new_layer_is_its_base_bit_by_bit(init, bias):
    layer = LoRALinear(17, 13, 3, alpha=5, init=init, bias=bias, rng=0)
    x = np.random.default_rng(1).standard_normal((4, 6, 17), dtype=np.float32)
    y, pullback = layer(x)
    base, base_pullback = ops.linear(x, layer.W, layer.b)
    assert same_bits(y, base)
    grads = pullback(y)
    assert same_bits(grads["x"], base_pullback(y, wrt=("x",))["x"])
    assert not grads["A"].any()
    assert grads["B"].any()


@settings(deadline=None)
@given(LEADING, SIZE, SIZE, SIZE, st.booleans(), st.booleans(), st.sampled_from([0.0, 0.25]))
def test_it_is_the_op_on_its_arrays(leading, in_, out, r, bias, use_rslora, dropout):
    layer = trained(LoRALinear(in_, out, r, alpha=3, use_rslora=use_rslora, dropout=dropout, bias=bias, rng=0))
    x = np.random.default_rng(2).standard_normal((*leading, in_), dtype=np.float32)
    y, pullback = layer(x, rng=counter_rng(1, 2, 3))
    mask = dropout_mask(x.shape, dropout, counter_rng(1, 2, 3)) if dropout else None
    scale = 3 / math.sqrt(r) if use_rslora else 3 / r
    y_op, op_pullback = ops.lora_linear(x, layer.W, layer.A, layer.B, scale=scale, b=layer.b, mask=mask)
    assert same_bits(y, y_op)
    assert (pullback.inputs, pullback.frozen) == (op_pullback.inputs, op_pullback.frozen)
    grads, op_grads = pullback(y), op_pullback(y)
    assert list(grads) == ["x", "A", "B"]
    assert all(same_bits(grads[name], op_grads[name]) for name in grads)


def test_the_gradient_is_the_slope_of_the_loss():
    """Central differences in float64, through the layer alone: no op on the other side of the comparison."""
    layer = trained(LoRALinear(6, 5, 2, alpha=3, dropout=0.5, bias=True, rng=0, dtype=np.float64))
    rng = np.random.default_rng(3)
    x, dy = rng.standard_normal((3, 6)), rng.standard_normal((3, 5))
    grads = layer(x, rng=counter_rng(0, 0, 0))[1](dy)
    for name, array in {"x": x, **layer.trainable}.items():
        direction = rng.standard_normal(array.shape)
        sides = []
        for sign in (1, -1):
            array += sign * 1e-5 * direction
            sides.append(np.sum(dy * layer(x, rng=counter_rng(0, 0, 0))[0]))
            array -= sign * 1e-5 * direction
        slope = (sides[0] - sides[1]) / 2e-5
        # Bilinear: no truncation. Rounding: 1e-16 times a few hundred operations of size 10, over 2e-5.
        np.testing.assert_allclose(slope, np.sum(grads[name] * direction), atol=1e-7)


def test_dropout_without_rng_is_evaluation_and_with_it_is_fresh_every_time():
    layer = trained(LoRALinear(50, 6, 2, dropout=0.5, rng=0))
    x = np.ones((4, 50), np.float32)
    rng = np.random.default_rng(0)
    evaluation = layer(x)[0]
    first, second = layer(x, rng=rng)[0], layer(x, rng=rng)[0]
    assert same_bits(evaluation, layer(x)[0])
    assert not np.array_equal(first, evaluation)
    assert not np.array_equal(first, second)


def test_dropout_leaves_the_base_path_alone():
    layer = LoRALinear(50, 6, 2, dropout=0.5, rng=0)  # B = 0: the base path is all there is
    x = np.ones((4, 50), np.float32)
    assert same_bits(layer(x, rng=np.random.default_rng(0))[0], layer(x)[0])


def test_without_dropout_nothing_is_drawn():
    layer, rng = LoRALinear(4, 3, 2, rng=0), np.random.default_rng(0)
    layer(np.ones((2, 4), np.float32), rng=rng)
    assert rng.random() == np.random.default_rng(0).random()


@settings(deadline=None)
@given(SIZE, SIZE, SIZE, st.booleans(), st.sampled_from([np.float16, np.float32, np.float64]))
def test_merge_and_back(in_, out, r, bias, dtype):
    layer = trained(LoRALinear(in_, out, r, alpha=3, bias=bias, rng=0, dtype=dtype))
    x = np.random.default_rng(4).standard_normal((3, in_)).astype(dtype)
    before = {name: a.copy() for name, a in {**layer.trainable, **layer.frozen}.items()}
    y, pullback = layer(x)

    layer.merge()
    assert layer.merged
    W_merged, _ = ops.merge(layer.W, layer.A, layer.B, scale=3 / r)
    y_merged, merged_pullback = layer(x)
    y_linear, linear_pullback = ops.linear(x, W_merged, layer.b)
    assert same_bits(y_merged, y_linear)
    assert list(merged_pullback(y)) == ["x"]
    assert same_bits(merged_pullback(y)["x"], linear_pullback(y, wrt=("x",))["x"])
    # The same function up to rounding: sums of in + r products, in two orders.
    size = np.abs(x) @ (np.abs(layer.W) + 3 / r * np.abs(layer.B) @ np.abs(layer.A)).T
    if bias:
        size = size + np.abs(layer.b)
    assert np.all(np.abs(y_merged - y) <= 2 * (in_ + r + 4) * np.finfo(dtype).eps * size + np.finfo(dtype).tiny)

    layer.unmerge()
    assert not layer.merged
    assert all(same_bits(before[name], a) for name, a in {**layer.trainable, **layer.frozen}.items())
    assert same_bits(layer(x)[0], y)
    assert all(same_bits(a, b) for a, b in zip(layer(x)[1](y).values(), pullback(y).values(), strict=True))


def test_taking_the_delta_away_again_would_not_return_to_W():
    """Why merge keeps W."""
    layer = trained(LoRALinear(64, 64, 4, rng=0))
    W_merged, _ = ops.merge(layer.W, layer.A, layer.B, scale=layer.scale)
    W_back, _ = ops.unmerge(W_merged, layer.A, layer.B, scale=layer.scale)
    assert not np.array_equal(W_back, layer.W)


def test_merged_refuses_what_it_cannot_give():
    layer = LoRALinear(4, 3, 2, dropout=0.5, rng=0)
    x = np.ones((2, 4), np.float32)
    with pytest.raises(RuntimeError, match=r"^the layer is not merged, expected merge\(\) before unmerge\(\)$"):
        layer.unmerge()
    layer.merge()
    assert "merged" in repr(layer)
    with pytest.raises(RuntimeError, match=r"^the layer is merged already, expected unmerge\(\) before"):
        layer.merge()
    y, pullback = layer(x)
    with pytest.raises(ValueError, match=r"^wrt names A, B, expected x alone until unmerge\(\): A and B are merged$"):
        pullback(y, wrt=("x", "A", "B"))
    with pytest.raises(ValueError, match="wrt names W, expected some of x"):
        pullback(y, wrt=("W",))
    with pytest.raises(TypeError, match="wrt is the string 'A'"):
        pullback(y, wrt="A")
    with pytest.raises(ValueError, match="rng is given, expected None while merged"):
        layer(x, rng=np.random.default_rng(0))


def test_weight_and_bias_are_copied_and_frozen():
    weight, bias = np.arange(6.0).reshape(2, 3), [1, 2]
    layer = LoRALinear(3, 2, 1, weight=weight, bias=bias, rng=0)
    weight[...] = 0
    np.testing.assert_array_equal(layer.W, np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(layer.b, [1, 2])
    for name in ("W", "b"):
        with pytest.raises(ValueError, match="read-only"):
            layer.frozen[name][...] = 1
    layer.merge()
    assert weight.flags.writeable


def test_frozen_is_differentiated_when_asked():
    """Full fine-tuning, or a checker, may want them."""
    y, pullback = LoRALinear(3, 2, 1, bias=True, rng=0)(np.ones((4, 3), np.float32))
    assert list(pullback(y, wrt=("W", "b"))) == ["W", "b"]


def test_a_seed_gives_the_same_layer():
    one, two, other = (LoRALinear(5, 4, 2, bias=True, rng=seed) for seed in (3, 3, 4))
    given_weight = LoRALinear(5, 4, 2, weight=np.zeros((4, 5)), rng=np.random.default_rng(3))
    unseeded = [LoRALinear(5, 4, 2) for _ in range(2)]
    for name in ("A", "W", "b"):
        assert same_bits(getattr(one, name), getattr(two, name))
        assert not np.array_equal(getattr(one, name), getattr(other, name))
    assert same_bits(one.A, given_weight.A)
    assert not np.array_equal(unseeded[0].A, unseeded[1].A)


@pytest.mark.parametrize("alpha", [-2, 0, 1.5, np.float64(6)])
def test_alpha_is_any_finite_number(alpha):
    layer = LoRALinear(3, 2, 4, alpha=alpha, rng=0)
    assert layer.scale == alpha / 4
    assert type(layer.scale) is float


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        (dict(rank=0), ValueError, "rank is 0, expected 1 <= rank"),
        (dict(rank=2.0), TypeError, "rank is a float, expected an integer"),
        (dict(in_features=0), ValueError, "in_features is 0, expected 1 <= in_features"),
        (dict(out_features=-1), ValueError, "out_features is -1, expected 1 <= out_features"),
        (dict(alpha=math.inf), ValueError, "alpha is inf, expected a finite number"),
        (dict(alpha="8"), TypeError, "alpha is a str, expected a number"),
        (dict(alpha=1j), TypeError, "alpha is a complex, expected a real number"),
        (dict(dropout=1.0), ValueError, "dropout is 1.0, expected 0 <= dropout < 1"),
        (dict(dropout=-0.1), ValueError, "dropout is -0.1, expected 0 <= dropout < 1"),
        (dict(dropout=math.nan), ValueError, "dropout is nan, expected a finite number"),
        (dict(init="pissa"), ValueError, "init is 'pissa', expected one of 'course', 'kaiming', 'gaussian'"),
        (dict(dtype=np.int64), TypeError, "dtype is int64, expected a real floating one"),
        (dict(dtype=np.complex128), TypeError, "dtype is complex128, expected a real floating one"),
        (dict(weight=np.zeros((6, 8))), ValueError, "weight has shape (6, 8), expected (8, 6)"),
        (dict(weight=1j * np.zeros((8, 6))), TypeError, "weight has dtype complex128, expected real numbers"),
        (dict(bias=np.zeros(6)), ValueError, "bias has shape (6,), expected (8,)"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(arguments, error, sentence):
    with pytest.raises(error) as raised:
        LoRALinear(**{**dict(in_features=6, out_features=8, rank=2, rng=0), **arguments})
    assert str(raised.value) == sentence


def test_bad_calls_are_refused_in_one_sentence():
    layer = LoRALinear(6, 8, 2, dropout=0.5, rng=0)
    with pytest.raises(ValueError, match=r"^x has shape \(3, 5\), expected \(\.\.\., in\) = \(\.\.\., 6\)$"):
        layer(np.zeros((3, 5), np.float32))
    with pytest.raises(TypeError, match=r"rng is an int, expected a numpy\.random\.Generator"):
        layer(np.zeros((3, 6), np.float32), rng=0)
    with pytest.raises(TypeError, match="x is a list, expected an array"):
        layer([[1.0] * 6], rng=np.random.default_rng(0))
