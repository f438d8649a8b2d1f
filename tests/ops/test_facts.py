"""What must hold whatever the numbers are: identities, edge cases, conventions."""

import math

import array_api_strict
import numpy as np
import pytest
from agreement import term_sizes
from configurations import DIMS, FIRST, build
from hypothesis import given
from hypothesis import strategies as st

from npl_lora import ops

seeds = st.integers(0, 2**32 - 1)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def test_dora_with_the_lengths_it_has_is_lora():
    """m = n, which is the start: c = 1, and y is lora_linear's. n is the row norms of W + s B A unless given."""
    inputs, config = build("dora_linear", FIRST)
    V = inputs["W"] + config["scale"] * inputs["B"] @ inputs["A"]
    norms = np.array([math.hypot(*row) for row in V])
    plain = {name: inputs[name] for name in ("x", "W", "A", "B")}
    y, _ = ops.dora_linear(**plain, **config, m=norms, b=inputs["b"])
    np.testing.assert_allclose(y, ops.lora_linear(**plain, **config, b=inputs["b"])[0], rtol=1e-13)
    y, pullback = ops.dora_linear(**plain, **config, m=inputs["m"])
    given, given_pullback = ops.dora_linear(**plain, **config, m=inputs["m"], n=norms)
    np.testing.assert_allclose(y, given, rtol=1e-14)
    for name, grad in pullback(y).items():
        np.testing.assert_allclose(grad, given_pullback(y)[name], rtol=1e-13)


def test_a_convolution_with_a_kernel_of_one_is_a_linear_layer_on_channels():
    inputs, config = build("lora_conv2d", FIRST | {"half": 1, "per": 1, "bias": False, "F": 1, "G": 1})
    y, _ = ops.lora_conv2d(**inputs, **config)
    last = np.moveaxis(inputs.pop("x"), 1, -1)
    flat = {name: t.reshape(t.shape[:2]) for name, t in inputs.items()}
    expected, _ = ops.lora_linear(last, **flat, scale=config["scale"])
    np.testing.assert_allclose(np.moveaxis(y, 1, -1), expected, rtol=1e-14)


@given(d=DIMS)
def test_a_row_of_a_batch_is_what_its_adapter_alone_makes_of_it(d):
    inputs, config = build("lora_batched", d)
    y, pullback = ops.lora_batched(**inputs, **config)
    dx = pullback(y)["x"]
    bias = {"b": inputs["b"]} if "b" in inputs else {}
    for n, k in enumerate(inputs["ids"]):
        x, W = inputs["x"][n], inputs["W"]
        if k < 0:
            alone, pullback = ops.linear(x, W, **bias)
        else:
            A, B = inputs["A"][k, : config["ranks"][k]], inputs["B"][k, :, : config["ranks"][k]]
            alone, pullback = ops.lora_linear(x, W, A, B, scale=config["scales"][k], **bias)
        np.testing.assert_allclose(y[n], alone, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(dx[n], pullback(y[n])["x"], rtol=1e-12, atol=1e-12)


@given(d=DIMS, rubbish=st.sampled_from([np.nan, np.inf, -1e300]))
def test_what_is_in_the_padding_of_an_adapter_does_not_matter_and_gets_no_gradient(d, rubbish):
    inputs, config = build("lora_batched", d | {"padding": True})
    y, pullback = ops.lora_batched(**inputs, **config)
    A, B = inputs["A"].copy(), inputs["B"].copy()
    for k, r in enumerate(config["ranks"]):
        A[k, r:], B[k, :, r:] = rubbish, rubbish
    other, other_pullback = ops.lora_batched(**inputs | {"A": A, "B": B}, **config)
    np.testing.assert_array_equal(other, y)
    for name, grad in pullback(y).items():
        np.testing.assert_array_equal(other_pullback(y)[name], grad)
    grads = pullback(y)
    for k, r in enumerate(config["ranks"]):
        assert not grads["A"][k, r:].any()
        assert not grads["B"][k, :, r:].any()


@given(d=DIMS)
def test_at_the_start_the_layer_is_its_base_and_only_dB_moves(d):
    inputs, config = build("lora_linear", d | {"leading": (2, 3)})
    inputs["B"] = np.zeros_like(inputs["B"])
    y, pullback = ops.lora_linear(**inputs, **config)
    base, _ = ops.linear(inputs["x"], inputs["W"], inputs.get("b"))
    np.testing.assert_array_equal(y, base)
    grads = pullback(normal(0, *y.shape))
    assert not grads["A"].any()
    assert "mask" in inputs or grads["B"].any()


@given(d=DIMS)
def test_merged_and_unmerged_agree(d):
    inputs, config = build("lora_linear", d | {"mask": False})
    W, _ = ops.merge(inputs["W"], inputs["A"], inputs["B"], scale=config["scale"])
    merged, _ = ops.linear(inputs["x"], W, inputs.get("b"))
    y, _ = ops.lora_linear(**inputs, **config)
    size, _ = ops.lora_linear(**{n: np.abs(a) for n, a in inputs.items()}, scale=abs(config["scale"]))
    assert np.all(np.abs(merged - y) <= 30 * 2.0**-53 * size)  # fewer than 30 roundings on either road


@given(d=DIMS)
def test_unmerge_undoes_merge_over_the_integers(d):
    inputs, config = build("merge", d)
    integers = {n: np.vectorize(int, otypes=[object])(1000 * a) for n, a in inputs.items()}
    options = {"scale": 7, "fan_in_fan_out": config["fan_in_fan_out"]}
    W, _ = ops.merge(**integers, **options)
    back, _ = ops.unmerge(W, integers["A"], integers["B"], **options)
    assert np.array_equal(back, integers["W"])


@given(d=DIMS)
def test_the_reference_free_identities_hold(d):
    """J1: B^T dB = dA A^T. J2: <dB, B> = <dA, A>. J3: <dx, x> = <dy, y - b>."""
    inputs, config = build("lora_linear", d)
    y, pullback = ops.lora_linear(**inputs, **config)
    dy = normal(1, *y.shape)
    grads = pullback(dy)
    A, B = inputs["A"], inputs["B"]
    _, sizes = term_sizes("lora_linear", inputs, config, dy)
    near = 200 * 2.0**-53  # of the terms: fewer than 100 roundings on either road
    size = np.abs(B.T) @ sizes["B"]
    assert np.all(np.abs(B.T @ grads["B"] - grads["A"] @ A.T) <= near * size)
    assert abs(np.sum(grads["B"] * B) - np.sum(grads["A"] * A)) <= near * np.sum(sizes["B"] * np.abs(B))
    through_b = np.sum(np.abs(dy) * np.abs(inputs.get("b", 0.0)))  # y - b cancels
    size = np.sum(sizes["x"] * np.abs(inputs["x"])) + through_b
    assert abs(np.sum(grads["x"] * inputs["x"]) - np.sum(dy * (y - inputs.get("b", 0)))) <= near * size


def test_repeated_ids_accumulate_and_the_padding_row_stays():
    E, A, B = normal(0, 5, 3), normal(1, 2, 5), normal(2, 3, 2)
    ids, dy = np.array([4, 1, 4, 4]), normal(3, 4, 3)
    _, pullback = ops.lora_embedding(ids, E, A, B, scale=0.5, padding_idx=1)
    grads = pullback(dy, wrt=("A", "E"))
    np.testing.assert_allclose(grads["E"][4], dy[0] + dy[2] + dy[3], rtol=1e-14)
    np.testing.assert_allclose(grads["A"][:, 4], 0.5 * (dy[0] + dy[2] + dy[3]) @ B, rtol=1e-14)
    assert not grads["E"][[0, 1, 2, 3]].any()
    assert not grads["A"][:, [0, 1, 2, 3]].any()


@given(seed=seeds)
def test_a_query_that_sees_no_key_gives_zeros_and_passes_zeros_back(seed):
    q, k, v, dy = normal(seed, 2, 4, 3), normal(seed + 1, 1, 4, 3), normal(seed + 2, 1, 4, 2), normal(seed + 3, 2, 4, 2)
    key_mask = np.array([False, False, True, True])
    y, pullback = ops.attention(q, k, v, causal=True, key_mask=key_mask)
    grads = pullback(dy)
    assert not y[:, :2].any()
    assert not grads["q"][:, :2].any()
    assert not grads["k"][:, :2].any()
    assert not grads["v"][:, :2].any()
    assert y[:, 2:].any()


@given(seed=seeds)
def test_causal_attention_with_a_cache_is_the_tail_of_the_whole(seed):
    q, k, v = normal(seed, 2, 6, 4), normal(seed + 1, 1, 6, 4), normal(seed + 2, 1, 6, 3)
    whole, _ = ops.attention(q, k, v, causal=True)
    tail, _ = ops.attention(q[:, 4:], k, v, causal=True, offset=4)
    np.testing.assert_allclose(tail, whole[:, 4:], rtol=1e-13, atol=1e-14)


def test_a_window_of_one_sees_itself_alone():
    q, k, v = normal(0, 2, 5, 4), normal(1, 2, 5, 4), normal(2, 2, 5, 3)
    y, _ = ops.attention(q, k, v, window=1)
    np.testing.assert_allclose(y, v, rtol=1e-15)


def test_heads_share_keys_in_groups_of_neighbours():
    q, k, v = normal(0, 4, 3, 2), normal(1, 2, 3, 2), normal(2, 2, 3, 2)
    y, _ = ops.attention(q, k, v)
    repeated, _ = ops.attention(q, np.repeat(k, 2, axis=0), np.repeat(v, 2, axis=0))
    np.testing.assert_allclose(y, repeated, rtol=1e-14)


@given(seed=seeds, start=st.integers(-5, 50))
def test_rope_turns_and_keeps_lengths_and_sees_distances_alone(seed, start):
    q, k = normal(seed, 1, 6), normal(seed + 1, 1, 6)
    turned, _ = ops.rope(q, start=start)
    np.testing.assert_allclose(np.linalg.norm(turned), np.linalg.norm(q), rtol=1e-14)
    apart = [ops.rope(q, start=s + 3)[0] @ ops.rope(k, start=s)[0].T for s in (0, start)]
    np.testing.assert_allclose(*apart, rtol=0, atol=1e-13)


@given(seed=seeds)
def test_the_two_layouts_of_rope_differ_by_a_permutation(seed):
    x = normal(seed, 4, 6)
    paired = np.array([0, 3, 1, 4, 2, 5])  # half layout (i, i + 3) -> interleaved (2i, 2i + 1)
    half, _ = ops.rope(x, start=2)
    interleaved, _ = ops.rope(x[:, paired], start=2, interleaved=True)
    np.testing.assert_array_equal(half[:, paired], interleaved)


@given(seed=seeds, masked=st.booleans(), scale=st.sampled_from([1.0, 1e3, 1e300]))
def test_softmax_is_a_distribution_over_what_is_seen(seed, masked, scale):
    x = scale * normal(seed, 4, 5)
    mask = np.random.default_rng(seed).random(x.shape) < (0.5 if masked else 2.0)
    y, pullback = ops.softmax(x, mask=mask)
    assert np.all(y >= 0)
    assert not y[~mask].any()
    np.testing.assert_allclose(np.sum(y, axis=-1), mask.any(axis=-1), rtol=2e-15)
    dx = pullback(normal(seed + 1, 4, 5))["x"]
    assert not dx[~mask].any()
    assert np.all(np.abs(np.sum(dx, axis=-1)) <= 2e-14)  # adding one number to all of x changes nothing


def test_softmax_takes_huge_numbers_and_nothing_at_all():
    y, _ = ops.softmax(np.array([[1e308, 1e308], [-1e308, 1.0], [-np.inf, -np.inf]]))
    np.testing.assert_array_equal(y, [[0.5, 0.5], [0.0, 1.0], [0.0, 0.0]])
    for shape in ((0, 3), (3, 0)):
        assert ops.softmax(np.ones(shape))[0].shape == shape
    q, k, v = np.ones((2, 3, 4)), np.ones((2, 0, 4)), np.ones((2, 0, 5))
    assert not ops.attention(q, k, v)[0].any()


@pytest.mark.parametrize("op", [ops.gelu, ops.gelu_tanh, ops.silu], ids=lambda op: op.__name__)
def test_the_far_left_tail_is_small_and_not_zero(op):
    z = np.array([-8.0])
    y, pullback = op(z)
    assert -1e-2 < y[0] < 0
    assert pullback(np.ones(1))["z"][0] < 0
    far, far_pullback = op(np.array([-1e4, 1e4]))
    np.testing.assert_array_equal(far, [0.0, 1e4])
    np.testing.assert_array_equal(far_pullback(np.ones(2))["z"], [0.0, 1.0])


def test_with_every_label_ignored_loss_and_gradient_are_zero_whatever_the_logits():
    logits = np.array([[np.nan, 1.0], [np.inf, 2.0]])
    loss, pullback = ops.cross_entropy(logits, np.array([-100, -100]))
    assert loss == 0
    assert not pullback(1.0)["logits"].any()


def test_what_stands_at_an_ignored_place_does_not_matter():
    logits, labels = normal(0, 3, 4), np.array([1, -100, 2])
    spoilt = logits.copy()
    spoilt[1] = [np.nan, np.inf, -np.inf, 1e308]
    (loss, pullback), (same, same_pullback) = (ops.cross_entropy(z, labels) for z in (logits, spoilt))
    assert loss == same
    np.testing.assert_array_equal(pullback(1.0)["logits"], same_pullback(1.0)["logits"])


def test_a_token_that_is_impossible_gets_no_gradient():
    loss, pullback = ops.cross_entropy(np.array([[-np.inf, 0.0, 0.0]]), np.array([1]))
    np.testing.assert_allclose(loss, np.log(2.0), rtol=1e-15)
    np.testing.assert_array_equal(pullback(1.0)["logits"], [[0.0, -0.5, 0.5]])


@pytest.mark.parametrize("xp", [np, array_api_strict], ids=["numpy", "strict"])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "uint32", "uint64"])
def test_tokens_may_be_of_a_dtype_that_cannot_count_to_V(dtype, xp):
    tokens, V = np.array([5, 100, 5]), 70_000
    logits, table = xp.asarray(normal(0, 3, V)), xp.asarray(normal(1, V, 2))
    loss, _ = ops.cross_entropy(logits, xp.asarray(tokens))
    narrow, pullback = ops.cross_entropy(logits, xp.asarray(tokens.astype(dtype)))
    assert float(narrow) == float(loss)
    rows = np.sum(np.asarray(pullback(xp.asarray(1.0))["logits"]) < 0, axis=-1)
    np.testing.assert_array_equal(rows, 1)  # one label in each row
    _, pullback = ops.embedding(xp.asarray(tokens.astype(dtype)), table)
    dE = np.asarray(pullback(xp.asarray(np.ones((3, 2))))["E"])
    np.testing.assert_array_equal(np.flatnonzero(dE[:, 0]), [5, 100])
    np.testing.assert_array_equal(dE[[5, 100]], [[2.0, 2.0], [1.0, 1.0]])


@given(seed=seeds, parts=st.integers(1, 4))
def test_micro_batches_add_up_to_the_whole_window(seed, parts):
    rng = np.random.default_rng(seed)
    logits, labels = rng.standard_normal((8, 3, 5)), rng.integers(0, 5, (8, 3))
    labels[rng.random(labels.shape) < 0.4] = -100
    labels[:2] = -100
    whole, pullback = ops.cross_entropy(logits, labels)
    count = int(np.sum(labels != -100))
    pieces = zip(np.array_split(logits, parts), np.array_split(labels, parts), strict=True)
    answers = [ops.cross_entropy(*piece, count=count) for piece in pieces]
    np.testing.assert_allclose(sum(loss for loss, _ in answers), whole, rtol=1e-13)
    together = np.concatenate([part(1.0)["logits"] for _, part in answers])
    np.testing.assert_allclose(together, pullback(1.0)["logits"], rtol=1e-13)


@given(seed=seeds, parts=st.integers(1, 4))
def test_squared_errors_of_micro_batches_add_up_to_the_whole_window(seed, parts):
    prediction, target = normal(seed, 7, 3), normal(seed + 1, 7, 3)
    whole, pullback = ops.mean_squared_error(prediction, target)
    np.testing.assert_allclose(whole, np.mean((prediction - target) ** 2), rtol=1e-14)
    pieces = zip(np.array_split(prediction, parts), np.array_split(target, parts), strict=True)
    answers = [ops.mean_squared_error(*piece, count=21) for piece in pieces]
    np.testing.assert_allclose(sum(loss for loss, _ in answers), whole, rtol=1e-14)
    together = np.concatenate([part(1.0)["prediction"] for _, part in answers])
    np.testing.assert_array_equal(together, pullback(1.0)["prediction"])


def test_the_loss_of_nothing_is_zero():
    loss, pullback = ops.mean_squared_error(np.ones((0, 3)), np.ones((0, 3)))
    assert loss == 0
    assert pullback(1.0)["prediction"].shape == (0, 3)
    loss, pullback = ops.cross_entropy(np.ones((0, 3)), np.ones(0, int))
    assert loss == 0
    assert pullback(1.0)["logits"].shape == (0, 3)


def test_relu_has_slope_zero_at_zero():
    _, pullback = ops.relu(np.array([-1.0, 0.0, 2.0]))
    np.testing.assert_array_equal(pullback(np.ones(3))["z"], [0.0, 0.0, 1.0])


def test_nan_in_one_row_stays_in_that_row():
    x = normal(0, 3, 4)
    x[1, 2] = np.nan
    y, _ = ops.lora_linear(x, normal(1, 5, 4), normal(2, 2, 4), normal(3, 5, 2), scale=2.0)
    assert np.isnan(y[1]).all()
    assert np.isfinite(y[[0, 2]]).all()
