"""LoRAAttention: it counts, starts as its base, and wires its arrays into the op."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npl_lora import ops
from npl_lora.layers import LoRAAttention


def trained(layer: LoRAAttention) -> LoRAAttention:
    rng = np.random.default_rng(7)
    for name, array in layer.trainable.items():
        if name.startswith("B_"):
            array[...] = rng.standard_normal(array.shape)
    return layer


def test_counts_and_repr():
    layer = LoRAAttention(embed_dim=512, n_heads=8, rank=4, rng=0)
    assert (layer.n_trainable, layer.n_frozen) == (4 * 4_096, 4 * 262_144)
    assert repr(layer) == (
        "LoRAAttention(embed_dim=512, n_heads=8, n_kv_heads=8, rank=4, alpha=4, scale=1.0, "
        "trainable 16,384 of 1,064,960 (1.5%))"
    )


def test_grouped_heads_count_less():
    layer = LoRAAttention(32, 4, 3, n_kv_heads=2, rng=0)
    assert layer.frozen["Wk"].shape == (16, 32)
    assert layer.trainable["B_v"].shape == (16, 3)
    assert layer.n_frozen == 2 * 32 * 32 + 2 * 16 * 32
    assert layer.n_trainable == 3 * (2 * (32 + 32) + 2 * (32 + 16))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 3), max_size=2).map(tuple),
    st.integers(1, 6),
    st.sampled_from([(1, 1), (2, 2), (4, 2), (3, 1)]),
    st.sampled_from([2, 4]),
    st.integers(1, 5),
    st.booleans(),
    st.sampled_from([None, 100.0]),
    st.booleans(),
)
def test_it_is_the_op_on_its_arrays(leading, T, heads, D, r, causal, rope_theta, use_rslora):
    H, G = heads
    options = dict(n_kv_heads=G, causal=causal, rope_theta=rope_theta)
    layer = trained(LoRAAttention(H * D, H, r, alpha=3, use_rslora=use_rslora, rng=0, **options))
    rng = np.random.default_rng(1)
    x = rng.standard_normal((*leading, T, H * D), dtype=np.float32)
    key_mask = rng.random((*leading, T)) < 0.7
    y, pullback = layer(x, key_mask=key_mask)

    scale = 3 / math.sqrt(r) if use_rslora else 3 / r
    arrays = {**layer.frozen, **layer.trainable}
    y_op, op_pullback = ops.lora_attention(x, **arrays, scale=scale, n_heads=H, key_mask=key_mask, **options)
    assert y.tobytes() == y_op.tobytes()
    grads, op_grads = pullback(y), op_pullback(y)
    assert list(grads) == ["x", *(f"{factor}_{n}" for n in "qkvo" for factor in "AB")]
    assert all(grads[name].tobytes() == op_grads[name].tobytes() for name in grads)
    assert {name: grads[name].shape for name in layer.trainable} == {n: a.shape for n, a in layer.trainable.items()}


def test_a_new_layer_is_plain_attention_bit_by_bit():
    layer = LoRAAttention(8, 2, 3, alpha=5, rng=0)
    x = np.random.default_rng(2).standard_normal((3, 5, 8), dtype=np.float32)

    def heads(t):
        return np.swapaxes(t.reshape(3, 5, 2, 4), 1, 2)

    q, k, v = (heads(ops.linear(x, layer.frozen[name])[0]) for name in ("Wq", "Wk", "Wv"))
    seen, _ = ops.attention(q, k, v, causal=True)
    base, _ = ops.linear(np.swapaxes(seen, 1, 2).reshape(3, 5, 8), layer.frozen["Wo"])
    y, pullback = layer(x)
    np.testing.assert_array_equal(y, base)
    grads = pullback(y)
    assert not any(grads[f"A_{n}"].any() for n in "qkvo")
    assert all(grads[f"B_{n}"].any() for n in "qkvo")


def test_causal_by_default():
    layer = trained(LoRAAttention(8, 2, 2, rng=0))
    x = np.random.default_rng(3).standard_normal((6, 8), dtype=np.float32)
    changed = x.copy()
    changed[4:] += 1
    np.testing.assert_array_equal(layer(x)[0][:4], layer(changed)[0][:4])


def test_weights_are_copied_and_frozen():
    weights = {f"W{n}": np.full((4, 4), float(i)) for i, n in enumerate("qkvo")}
    layer = LoRAAttention(4, 2, 1, rng=0, weights=weights, dtype=np.float64)
    for name, weight in weights.items():
        np.testing.assert_array_equal(layer.frozen[name], weight)
        assert not np.shares_memory(layer.frozen[name], weight)
        with pytest.raises(ValueError, match="read-only"):
            layer.frozen[name][...] = 1


def test_a_seed_gives_the_same_layer():
    one, two = (LoRAAttention(4, 2, 2, rng=5) for _ in range(2))
    everything = {**one.trainable, **one.frozen}
    assert all(a.tobytes() == {**two.trainable, **two.frozen}[name].tobytes() for name, a in everything.items())
    drawn = [a.tobytes() for name, a in everything.items() if not name.startswith("B_")]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        (dict(rank=0), ValueError, "rank is 0, expected 1 <= rank"),
        (dict(n_heads=5), ValueError, "embed_dim is 12, expected a multiple of n_heads = 5"),
        (dict(n_kv_heads=3), ValueError, "n_heads is 4, expected a multiple of n_kv_heads = 3"),
        (dict(n_heads=0), ValueError, "n_heads is 0, expected 1 <= n_heads"),
        (dict(alpha=math.nan), ValueError, "alpha is nan, expected a finite number"),
        (dict(init="zero"), ValueError, "init is 'zero', expected one of 'course', 'kaiming', 'gaussian'"),
        (dict(dtype=int), TypeError, "dtype is int64, expected a real floating one"),
        (dict(weights={}), ValueError, "weights has nothing, expected Wq, Wk, Wv and Wo"),
        (
            dict(weights=dict.fromkeys(("Wq", "Wk", "Wv", "Wo"), np.zeros((12, 11)))),
            ValueError,
            "Wq has shape (12, 11), expected (12, 12)",
        ),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(arguments, error, sentence):
    with pytest.raises(error) as raised:
        LoRAAttention(**{**dict(embed_dim=12, n_heads=4, rank=2, rng=0), **arguments})
    assert str(raised.value) == sentence


def test_bad_calls_are_refused_in_one_sentence():
    layer = LoRAAttention(12, 4, 2, rng=0)
    with pytest.raises(ValueError, match=r"^x has shape \(3, 5\), expected \(\.\.\., T, C\) = \(\.\.\., T, 12\)$"):
        layer(np.zeros((3, 5), np.float32))
    with pytest.raises(TypeError, match="key_mask has dtype float32, expected a bool dtype"):
        layer(np.zeros((3, 12), np.float32), key_mask=np.ones(3, np.float32))
