"""Bad input is refused at the door: one sentence with the argument's name, what was expected, what came."""

import inspect

import array_api_strict
import numpy as np
import pytest
from configurations import FIRST, OPS, build

from npl_lora import ops

f = np.ones
x, W, A, B = f((2, 5)), f((3, 5)), f((4, 5)), f((3, 4))
ids, E, EA, EB = np.array([0, 2]), f((6, 3)), f((2, 6)), f((3, 2))
q, k, v = f((4, 3, 2)), f((2, 5, 2)), f((2, 5, 3))
block = {"Wq": f((8, 5)), "Wk": f((4, 5)), "Wv": f((4, 5)), "Wo": f((5, 8))}
block |= {"A_q": f((2, 5)), "B_q": f((8, 2)), "A_k": f((2, 5)), "B_k": f((4, 2))}
block |= {"A_v": f((2, 5)), "B_v": f((4, 2)), "A_o": f((2, 8)), "B_o": f((5, 2))}
mlp = {"W_gate": f((7, 5)), "W_up": f((7, 5)), "W_down": f((5, 7))}
heads = {"scale": 1.0, "n_heads": 4, "n_kv_heads": 2}
three_heads = {"scale": 1.0, "n_heads": 3, "n_kv_heads": 2}
heads_of_three = {"Wo": f((5, 6)), "A_o": f((2, 6))}


def combine(**changed):
    return ops.combine(**dict(A_1=f((2, 5)), B_1=f((3, 2)), A_2=A, B_2=B, weights=[1, 2], scales=[3, 4]) | changed)


def batched(**changed):
    given = dict(x=x, W=W, A=f((2, 4, 5)), B=f((2, 3, 4)), ids=np.array([-1, 1]), ranks=[2, 4], scales=[1.0, 2.0])
    return ops.lora_batched(**given | changed)


REFUSED = [
    (lambda: ops.lora_linear(x, W, A.T, B, scale=1.0), ValueError, "A has shape (5, 4), expected (r, in) = (r, 5)"),
    (lambda: ops.lora_linear(x, W, A, B.T, scale=1.0), ValueError, "B has shape (4, 3), expected (out, r) = (3, 4)"),
    (lambda: ops.lora_linear(x.T, W, A, B, scale=1.0), ValueError, "x has shape (5, 2), expected (..., in) = (..., 5)"),
    (lambda: ops.lora_linear(x, W, A, B, scale="1"), TypeError, "scale is a str, expected a number"),
    (lambda: ops.lora_linear(x, W, A, B, scale=True), TypeError, "scale is a bool, expected a number"),
    (lambda: ops.lora_linear(x, W, A, B, scale=float("nan")), ValueError, "scale is nan, expected a finite number"),
    (
        lambda: ops.lora_linear(x, W, A, B, scale=1.0, mask=x[:1]),
        ValueError,
        "mask has shape (1, 5), expected (..., in) = (2, 5)",
    ),
    (lambda: ops.lora_linear(x, W, A, B, scale=1.0, b=f(4)), ValueError, "b has shape (4,), expected (out,) = (3,)"),
    (lambda: ops.linear(x.tolist(), W), TypeError, "x is a list, expected an array"),
    (lambda: ops.linear(x.astype(int), W), TypeError, "x has dtype int64, expected a floating or complex dtype"),
    (lambda: ops.linear(x, W[0]), ValueError, "W has shape (5,), expected (out, in)"),
    (lambda: ops.embedding(ids - 1, E), ValueError, "ids has values from -1 to 1, expected 0 <= ids < 6"),
    (lambda: ops.embedding(ids + 4, E), ValueError, "ids has values from 4 to 6, expected 0 <= ids < 6"),
    (lambda: ops.embedding(ids.astype(float), E), TypeError, "ids has dtype float64, expected an integer dtype"),
    (lambda: ops.embedding(ids, E, padding_idx=6), ValueError, "padding_idx is 6, expected 0 <= padding_idx < 6"),
    (
        lambda: ops.lora_embedding(ids, E, EA, EB.T, scale=1.0),
        ValueError,
        "B has shape (2, 3), expected (D, r) = (3, 2)",
    ),
    (
        lambda: ops.merge(W, A, B, scale=1.0, fan_in_fan_out=True),
        ValueError,
        "W has shape (3, 5), expected (in, out) = (5, 3)",
    ),
    (lambda: ops.unmerge(W.T, A, B, scale=1.0), ValueError, "W_merged has shape (5, 3), expected (out, in) = (3, 5)"),
    (
        lambda: ops.dora_linear(x, W, A, B, f(4), scale=1.0),
        ValueError,
        "m has shape (4,), expected (out,) = (3,)",
    ),
    (
        lambda: ops.patches(f((1, 2, 3, 4)), kernel=(4, 1)),
        ValueError,
        "kernel spans 4 rows, expected at most the 3 of the padded image",
    ),
    (
        lambda: ops.patches(f((1, 2, 3, 4)), kernel=(1, 3), padding=(0, 1), dilation=(1, 4)),
        ValueError,
        "kernel spans 9 columns, expected at most the 6 of the padded image",
    ),
    (
        lambda: ops.patches(f((1, 2, 3, 4)), kernel=(2, 2), stride=2),
        ValueError,
        "stride is 2, expected a pair of integers",
    ),
    (
        lambda: ops.patches(f((1, 2, 3, 4)), kernel=(2, 2), dilation=(1, 0)),
        ValueError,
        "dilation[1] is 0, expected 1 <= dilation[1]",
    ),
    (
        lambda: ops.lora_conv2d(f((1, 2, 3, 4)), f((3, 2, 2, 2)), f((5, 2, 2, 2)), f((3, 5, 2, 1)), scale=1.0),
        ValueError,
        "B has shape (3, 5, 2, 1), expected (Co, r, 1, 1) = (3, 5, 1, 1)",
    ),
    (lambda: batched(x=x[:1]), ValueError, "x has shape (1, 5), expected (N, ..., in) = (2, ..., 5)"),
    (lambda: batched(x=x[0]), ValueError, "x has shape (5,), expected (N, ..., in) = (2, ..., 5)"),
    (lambda: batched(A=f((3, 4, 5))), ValueError, "B has shape (2, 3, 4), expected (K, out, R) = (3, 3, 4)"),
    (
        lambda: batched(A=f((0, 4, 5)), B=f((0, 3, 4)), ranks=[], scales=[]),
        ValueError,
        "A has 0 adapters, expected at least 1",
    ),
    (lambda: batched(ids=ids), ValueError, "ids has values from 0 to 2, expected -1 <= ids < 2"),
    (lambda: batched(ids=ids - 2), ValueError, "ids has values from -2 to 0, expected -1 <= ids < 2"),
    (lambda: batched(ids=ids + 0.5), TypeError, "ids has dtype float64, expected an integer dtype"),
    (lambda: batched(ranks=[2]), ValueError, "ranks has length 1, expected 2, one for each adapter"),
    (lambda: batched(ranks=[2, 5]), ValueError, "ranks[1] is 5, expected 1 <= ranks[1] < 5"),
    (lambda: batched(ranks=[2, 1.0]), TypeError, "ranks[1] is a float, expected an integer"),
    (lambda: batched(scales=[1.0]), ValueError, "scales has length 1, expected 2, one for each adapter"),
    (lambda: batched(scales=[None, 1.0]), TypeError, "scales[0] is None, expected a number"),
    (lambda: combine(A_2=A.T), ValueError, "A_2 has shape (5, 4), expected (r_2, in) = (r_2, 5)"),
    (lambda: combine(B_2=B.T), ValueError, "B_2 has shape (4, 3), expected (out, r_2) = (3, 4)"),
    (lambda: combine(A_3=A), TypeError, "combine was given A_3, expected A_1, B_1, A_2, B_2"),
    (lambda: combine(weights=[1.0, "2"]), TypeError, "weights[1] is a str, expected a number"),
    (lambda: combine(scales=[np.inf, 1.0]), ValueError, "scales[0] is inf, expected a finite number"),
    (lambda: combine(scales=[1.0]), ValueError, "scales has length 1, expected 2, the length of weights"),
    (
        lambda: ops.combine(weights=[], scales=[]),
        ValueError,
        "weights has length 0, expected at least 1",
    ),
    (lambda: ops.dropout(x, x.T), ValueError, "mask has shape (5, 2), expected (...) = (2, 5)"),
    (
        lambda: ops.softmax(x, mask=f((3, 5), bool)),
        ValueError,
        "mask has shape (3, 5), expected one that broadcasts to (2, 5)",
    ),
    (lambda: ops.softmax(x, mask=x), TypeError, "mask has dtype float64, expected a bool dtype"),
    (lambda: ops.attention(q[:3], k, v), ValueError, "q has 3 heads, expected a multiple of k's 2 heads"),
    (lambda: ops.attention(q, k[:0], v[:0]), ValueError, "k has 0 heads, expected at least 1"),
    (lambda: ops.attention(q, k[..., :1], v), ValueError, "k has shape (2, 5, 1), expected (..., G, S, D) = (G, S, 2)"),
    (lambda: ops.attention(q, k, v, window=0), ValueError, "window is 0, expected 1 <= window"),
    (lambda: ops.attention(q, k, v, softcap=0.0), ValueError, "softcap is 0.0, expected softcap > 0"),
    (lambda: ops.attention(q, k, v, offset=0.5), TypeError, "offset is a float, expected an integer"),
    (lambda: ops.attention(q, k, v, causal="no"), TypeError, "causal is a str, expected a bool"),
    (lambda: ops.attention(q[..., :0], k[..., :0], v), ValueError, "q has heads of size 0, expected at least 1"),
    (lambda: ops.rope(f((3, 4)), interleaved=2), TypeError, "interleaved is an int, expected a bool"),
    (
        lambda: ops.lora_attention(x, **block, **heads, rope_theta=0),
        ValueError,
        "rope_theta is 0, expected rope_theta > 0",
    ),
    (lambda: ops.rope(f((3, 5))), ValueError, "x has head size D = 5, expected an even number"),
    (lambda: ops.rope(f((3, 4)), start="a"), TypeError, "start is a str, expected an integer"),
    (lambda: ops.layer_norm(x, f(5), f(4)), ValueError, "b has shape (4,), expected (n,) = (5,)"),
    (lambda: ops.rms_norm(x, f(4)), ValueError, "w has shape (4,), expected (n,) = (5,)"),
    (lambda: ops.gelu(ids), TypeError, "z has dtype int64, expected a floating or complex dtype"),
    (lambda: ops.glu(x, x, activation="swish"), ValueError, "activation is 'swish', expected one of 'silu', 'gelu'"),
    (lambda: ops.gated_mlp(x, **mlp | {"W_up": W}), ValueError, "W_up has shape (3, 5), expected (F, C) = (7, 5)"),
    (
        lambda: ops.lora_attention(x, **block, **heads | {"n_heads": 3}),
        ValueError,
        "Wq has 8 rows, expected a multiple of n_heads = 3",
    ),
    (
        lambda: ops.lora_attention(x, **block, **heads | {"n_kv_heads": 4}),
        ValueError,
        "Wk has 4 rows, expected n_kv_heads * D = 4 * 2 = 8; D = 8 / 4 is Wq's rows / n_heads",
    ),
    (
        lambda: ops.lora_attention(x, **block | {"Wq": f((6, 5)), "B_q": f((6, 2)), **heads_of_three}, **three_heads),
        ValueError,
        "n_heads is 3, expected a multiple of n_kv_heads = 2",
    ),
    (
        lambda: ops.lora_attention(x, **block | {"B_v": f((8, 2))}, **heads),
        ValueError,
        "B_v has shape (8, 2), expected (GD, r) = (4, 2)",
    ),
    (lambda: ops.cross_entropy(x, ids + 4), ValueError, "labels has values from 4 to 6, expected 0 <= labels < 5"),
    (lambda: ops.cross_entropy(x, ids, count=-1), ValueError, "count is -1, expected 0 <= count"),
    (lambda: ops.cross_entropy(x, ids[:1]), ValueError, "labels has shape (1,), expected (...) = (2,)"),
    (lambda: ops.mean_squared_error(x, x[:1]), ValueError, "target has shape (1, 5), expected (...) = (2, 5)"),
    (lambda: ops.linear(x, W)[1](x), ValueError, "dy has shape (2, 5), expected (2, 3)"),
    (lambda: ops.linear(x, W)[1](f((2, 3)), wrt=("A",)), ValueError, "wrt names A, expected some of x, W"),
    (lambda: ops.linear(x, W)[1](f((2, 3)), wrt="x"), TypeError, "wrt is the string 'x', expected a tuple of names"),
    (lambda: ops.lora_linear(x, W, A, B, scale=None), TypeError, "scale is None, expected a number"),
    (lambda: ops.lora_linear(x, W, A, B, scale=f(1)), TypeError, "scale is an ndarray, expected a number"),
    (lambda: ops.rope(f((3, 4)), theta=-3.0), ValueError, "theta is -3.0, expected theta > 0"),
    (lambda: ops.rope(f((3, 4)), theta=1j), TypeError, "theta is a complex, expected a real number"),
    (lambda: ops.layer_norm(x, f(5), f(5), eps=-1.0), ValueError, "eps is -1.0, expected eps > 0"),
    (lambda: ops.rms_norm(x, f(5), eps=0.0), ValueError, "eps is 0.0, expected eps > 0"),
    (lambda: ops.glu(x, x, activation=["silu"]), ValueError, "activation is ['silu'], expected one of 'silu', 'gelu'"),
    (lambda: ops.cross_entropy(x, ids - 1), ValueError, "labels has values from -1 to 1, expected 0 <= labels < 5"),
    (
        lambda: ops.linear(x, W)[1](f((2, 3), int)),
        TypeError,
        "dy has dtype int64, expected a floating or complex dtype",
    ),
    (lambda: ops.linear(x, W)[1](None), TypeError, "dy is None, expected an array"),
    (lambda: ops.mean_squared_error(x, x)[1](None), TypeError, "dy is None, expected an array"),
    (lambda: ops.mean_squared_error(x, x)[1](f(1)), ValueError, "dy has shape (1,), expected ()"),
    (lambda: ops.linear(x, W)[1](f((2, 3)), wrt=(1,)), ValueError, "wrt names 1, expected some of x, W"),
]


@pytest.mark.parametrize(("refused", "error", "sentence"), REFUSED, ids=[r[2][:40] for r in REFUSED])
def test_one_sentence_with_name_expected_and_got(refused, error, sentence):
    with pytest.raises(error) as caught:
        refused()
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def _array_names(name):
    return [(name, n) for n in build(name, FIRST)[0]]


ARRAYS = [pair for name in OPS for pair in _array_names(name)]
TOGETHER = [(name, n) for name, n in ARRAYS if len(_array_names(name)) > 1]  # alone, any namespace and shape is right
WRONG = {
    "list": (lambda a: a.tolist(), "{} is a list, expected an array"),
    "string": (str, "{} is a str, expected an array"),
    "dtype": (lambda a: a.astype("U8"), "{} has dtype <U8, expected "),
    "kind": (lambda a: a.astype(int if a.dtype.kind in "bf" else float), "{} has dtype "),
}


@pytest.mark.parametrize(("name", "n"), ARRAYS)
def test_every_array_of_every_op_is_looked_at(name, n):
    inputs, config = build(name, FIRST)
    for spoil, sentence in WRONG.values():
        with pytest.raises(TypeError) as caught:
            getattr(ops, name)(**inputs | {n: spoil(inputs[n])}, **config)
        assert str(caught.value).startswith(sentence.format(n))


@pytest.mark.parametrize(("name", "n"), ARRAYS)
def test_a_required_array_may_not_be_none(name, n):
    inputs, config = build(name, FIRST)
    parameter = inspect.signature(getattr(ops, name)).parameters.get(n)  # none: one of combine's factors
    if parameter is not None and parameter.default is None:
        getattr(ops, name)(**inputs | {n: None}, **config)
        return
    with pytest.raises(TypeError, match=rf"^{n} is None, expected an array$"):
        getattr(ops, name)(**inputs | {n: None}, **config)


@pytest.mark.parametrize(("name", "n"), TOGETHER)
def test_namespaces_are_not_mixed(name, n):
    inputs, config = build(name, FIRST)
    with pytest.raises(TypeError, match=r"^\w+ is an array of .*, expected one of .* like the others$"):
        getattr(ops, name)(**inputs | {n: array_api_strict.asarray(inputs[n])}, **config)


@pytest.mark.parametrize(("name", "n"), [pair for pair in TOGETHER if pair[1] != "ids"])  # ids may have any shape
def test_an_axis_too_many_is_refused(name, n):
    """Whichever argument is named: of two that do not fit together, either may be the wrong one."""
    inputs, config = build(name, FIRST)
    with pytest.raises(ValueError, match=r"^\w+ has shape \("):
        getattr(ops, name)(**inputs | {n: np.stack([inputs[n]] * 7, axis=-1)}, **config)


def test_a_plain_number_as_dy_does_not_decide_the_dtype():
    logits, labels = x.astype(np.float32), np.array([0, 2])
    for dy in (1, 0.25, np.float64(0.25), np.float32(0.25), np.array(0.25, np.float32)):
        for loss, pullback in (ops.cross_entropy(logits, labels), ops.mean_squared_error(logits, 2 * logits)):
            assert isinstance(loss, np.ndarray)
            assert loss.dtype == np.float32
            (grad,) = pullback(dy).values()
            assert grad.dtype == np.float32


def test_numbers_from_numpy_do_not_decide_the_dtype():
    single = [a.astype(np.float32) for a in (x, W, A, B)]
    for scale in (np.float64(0.5), np.longdouble(0.5), np.array(0.5), 1):
        assert ops.lora_linear(*single, scale=scale)[0].dtype == np.float32
