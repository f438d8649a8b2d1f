"""compose: every way to put stages together, against formulas and the complex step; and a test of these tests."""

import gc
import importlib
import itertools
import weakref
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from agreement import cotangent
from configurations import DIMS, build
from hypothesis import given, settings
from mutations import MutateComposition, count_places, mutant

from npl_lora import ops

compose = importlib.import_module("npl_lora.ops.compose")
STEP = 1e-200
RNG = np.random.default_rng(1)
X = RNG.standard_normal((2, 3, 4))
LONG = RNG.standard_normal((2, 1, 3, 4))
IDS = np.array([[2, 0, 2], [1, 2, 0]])
WEIGHTS = {name: RNG.standard_normal((4, 4)) for name in ("W", "U", "V")} | {"E": RNG.standard_normal((3, 4))}
WEIGHTS |= {"base": RNG.standard_normal((4, 4)), "A": RNG.standard_normal((2, 4)), "B": RNG.standard_normal((4, 2))}


def silu(x):
    return x / (1 + np.exp(-x))


def heads(x):
    """(..., T, 2 D) -> (..., 2, T, D)"""
    return np.stack([x[..., :2], x[..., 2:]], axis=-3)


def attention(q, k, v):
    scores = np.exp(q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1]))
    return scores / scores.sum(-1, keepdims=True) @ v


class Composition:
    """A stage built with compose from weights, the formula that it stands for, and what its pullback should offer."""

    def __init__(self, stage, formula, inputs, frozen=(), x=X):
        self.stage, self.formula, self.inputs, self.frozen, self.x = stage, formula, inputs, frozen, x


def compositions(c):
    """c: the module compose, or a mutant of it. Each stage is a function of the weights w."""

    def linear(w, name):
        return c.renamed(partial(ops.linear, W=w[name]), {"W": name})

    def lora(w):
        return partial(ops.lora_linear, W=w["W"], A=w["A"], B=w["B"], scale=0.5)

    def act(w):
        return c.renamed(ops.silu, {"z": "x"})

    def mlp(w):
        return c.chain(c.branch(ops.glu, gate=linear(w, "W"), up=linear(w, "U")), linear(w, "V"))

    def attend(w):
        qkv = {n: c.chain(linear(w, name), c.split_heads(2)) for n, name in zip("qkv", "WUV", strict=True)}
        return c.chain(c.branch(ops.attention, **qkv), c.join_heads)

    def embed(w):
        return partial(ops.embedding, E=w["E"])

    def reopened(w):
        def stage(x):
            y, pullback = lora(w)(x)
            return y, c.reopen(pullback, y, ["A", "W"], ["W"])

        return stage

    def adapted(x, w):
        return x @ w["W"].T + 0.5 * (x @ w["A"].T) @ w["B"].T

    def gated(x, w):
        return silu(x @ w["W"].T) * (x @ w["U"].T) @ w["V"].T

    def attended(x, w):
        y = attention(*(heads(x @ w[n].T) for n in "WUV"))
        return np.concatenate([y[..., 0, :, :], y[..., 1, :, :]], axis=-1)

    return {
        "chain": Composition(
            lambda w: c.chain(linear(w, "W"), act(w), linear(w, "U")),
            lambda x, w: silu(x @ w["W"].T) @ w["U"].T,
            ("x", "W", "U"),
        ),
        "chain of one": Composition(lambda w: c.chain(linear(w, "W")), lambda x, w: x @ w["W"].T, ("x", "W")),
        "residual": Composition(
            lambda w: c.residual(c.chain(linear(w, "W"), act(w))),
            lambda x, w: x + silu(x @ w["W"].T),
            ("x", "W"),
        ),
        "add": Composition(
            lambda w: c.add(linear(w, "W"), act(w), linear(w, "U")),
            lambda x, w: x @ w["W"].T + silu(x) + x @ w["U"].T,
            ("x", "W", "U"),
        ),
        "branch": Composition(mlp, gated, ("x", "W", "U", "V")),
        "heads": Composition(attend, attended, ("x", "W", "U", "V")),
        "heads of a longer batch": Composition(attend, attended, ("x", "W", "U", "V"), x=LONG),
        "recompute": Composition(lambda w: c.recompute(mlp(w)), gated, ("x", "W", "U", "V")),
        "recompute frozen": Composition(lambda w: c.recompute(lora(w)), adapted, ("x", "A", "B", "W"), ("W",)),
        "over_rows": Composition(lambda w: c.over_rows(linear(w, "W")), lambda x, w: x @ w["W"].T, ("x", "W")),
        "frozen": Composition(
            lambda w: c.residual(c.chain(lora(w), linear(w, "U"))),
            lambda x, w: x + adapted(x, w) @ w["U"].T,
            ("x", "A", "B", "W", "U"),
            ("W",),
        ),
        "frozen in a branch": Composition(
            lambda w: c.add(c.renamed(lora(w | {"W": w["base"]}), {"W": "base"}), c.over_rows(lora(w))),
            lambda x, w: adapted(x, w | {"W": w["base"]}) + adapted(x, w),
            ("x", "A", "B", "base", "W"),
            ("base", "W"),
        ),
        "shared in a chain": Composition(
            lambda w: c.chain(linear(w, "W"), act(w), linear(w, "W"), c.residual(linear(w, "W"))),
            lambda x, w: silu(x @ w["W"].T) @ w["W"].T + silu(x @ w["W"].T) @ w["W"].T @ w["W"].T,
            ("x", "W"),
        ),
        "shared in a branch": Composition(
            lambda w: c.add(linear(w, "W"), c.residual(linear(w, "W"))),
            lambda x, w: 2 * x @ w["W"].T + x,
            ("x", "W"),
        ),
        "ids": Composition(
            lambda w: c.chain(c.add(embed(w), c.chain(embed(w), linear(w, "W"))), act(w)),
            lambda x, w: silu(w["E"][x] + w["E"][x] @ w["W"].T),
            ("E", "W"),
            x=IDS,
        ),
        "features": Composition(
            lambda w: c.chain(linear(w, "W"), c.branch(ops.glu, gate=c.features(0, 2), up=c.features(1, 3))),
            lambda x, w: silu((x @ w["W"].T)[..., 0:2]) * (x @ w["W"].T)[..., 1:3],
            ("x", "W"),
        ),
        "reopen": Composition(reopened, adapted, ("A", "W"), ("W",)),
        "nested": Composition(
            lambda w: c.chain(c.residual(attend(w)), c.recompute(c.residual(c.chain(c.over_rows(lora(w)), mlp(w))))),
            lambda x, w: (z := x + attended(x, w)) + gated(adapted(z, w), w),
            ("x", "W", "U", "V", "A", "B"),
            ("W",),
        ),
    }


def derivative(composition, name, dy):
    """d<dy, formula>/d(name), by the complex step."""
    start = composition.x if name == "x" else WEIGHTS[name]
    gradient = np.zeros(start.shape)
    for index in np.ndindex(start.shape):
        moved = start.astype(complex)
        moved[index] += 1j * STEP
        x, w = (moved, WEIGHTS) if name == "x" else (composition.x, WEIGHTS | {name: moved})
        gradient[index] = np.sum(np.imag(composition.formula(x, w)) / STEP * dy)
    return gradient


def same(got, expected):
    return got.shape == expected.shape and np.allclose(got, expected, rtol=1e-11, atol=1e-11)


EXPECTED = {}  # of the right compose: computed once, for the mutants are many


def expected(key, composition):
    if key not in EXPECTED:
        y = composition.formula(composition.x, WEIGHTS)
        dy = cotangent(y)
        EXPECTED[key] = y, dy, {name: derivative(composition, name, dy) for name in composition.inputs}
    return EXPECTED[key]


def check(key, composition):
    y, dy, grads = expected(key, composition)
    got, pullback = composition.stage(WEIGHTS)(composition.x)
    assert same(got, y)
    assert pullback.inputs == composition.inputs
    assert pullback.frozen == composition.frozen
    assert set(pullback(dy)) == set(composition.inputs) - set(composition.frozen)
    for size in range(len(grads) + 1):
        for wrt in itertools.combinations(grads, size):
            answer = pullback(dy, wrt=wrt)
            assert set(answer) == set(wrt)
            assert all(same(answer[name], grads[name]) for name in wrt), wrt


def work_of(c):
    """{what is asked of which composition: the pullbacks that are called below it, and what each is asked for}."""
    calls = []

    def spy(name, op):
        def forward(*x, **named):
            y, pullback = op(*x, **named)

            def backward(dy, wrt):
                calls.append((name, *sorted(wrt)))
                return pullback(dy, wrt=wrt)

            return y, ops.Pullback(backward, y, pullback.inputs, pullback.frozen)

        return forward

    def linear(name):
        return c.renamed(spy(name, partial(ops.linear, W=WEIGHTS[name])), {"W": name})

    act = spy("act", c.renamed(ops.silu, {"z": "x"}))
    cases = {
        "chain": c.chain(linear("W"), act, linear("U")),
        "branch": c.branch(spy("glu", ops.glu), gate=linear("W"), up=linear("U")),
        "add": c.add(linear("W"), linear("U")),
        "residual": c.residual(linear("W")),
        "over_rows": c.over_rows(linear("W")),
        "recompute": c.recompute(linear("W")),
    }
    work = {}
    for name, stage in cases.items():
        y, pullback = stage(X)
        for wrt in ((), *((n,) for n in pullback.inputs)):
            calls.clear()
            pullback(cotangent(y), wrt=wrt)
            work[name, *wrt] = [*calls]
    return work


WORK = {
    ("chain",): [],
    ("chain", "U"): [("U", "W")],
    ("chain", "W"): [("U", "x"), ("act", "x"), ("W", "W")],
    ("chain", "x"): [("U", "x"), ("act", "x"), ("W", "x")],
    ("branch",): [("glu",)],
    ("branch", "U"): [("glu", "up"), ("U", "W")],
    ("branch", "W"): [("glu", "gate"), ("W", "W")],
    ("branch", "x"): [("glu", "gate", "up"), ("W", "x"), ("U", "x")],
    ("add",): [],
    ("add", "U"): [("U", "W")],
    ("add", "W"): [("W", "W")],
    ("add", "x"): [("W", "x"), ("U", "x")],
    **{(name, *wrt): [("W", *wrt)] for name in ("residual", "over_rows", "recompute") for wrt in ((), ("W",), ("x",))},
}


def check_all(c):
    for key, composition in compositions(c).items():
        check(key, composition)
    assert work_of(c) == WORK


@pytest.mark.parametrize("key", compositions(compose))
def test_value_and_gradients_are_those_of_the_formula(key):
    check(key, compositions(compose)[key])


def test_nothing_is_called_that_nobody_asks_for():
    assert work_of(compose) == WORK


def test_recompute_keeps_x_alone():
    made = []

    def stage(x):
        y, pullback = ops.silu(x)
        made.append(weakref.ref(pullback._backward))
        return y, ops.Pullback(lambda dy, wrt: {"x": pullback(dy)["z"]}, y, ("x",))

    kept = [compose.recompute(stage)(X), stage(X)]
    gc.collect()
    assert [ref() is None for ref in made] == [True, False]
    (_, again), (_, once) = kept
    np.testing.assert_array_equal(again(X)["x"], once(X)["x"])


X_5_8 = np.arange(40.0).reshape(5, 8)
WIDER = partial(ops.linear, W=np.ones((6, 8)))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: compose.chain(), "chain got no stages"),
        (lambda: compose.residual(WIDER)(X_5_8), r"stage\(x\) has shape \(5, 6\), expected x's, \(5, 8\)"),
        (
            lambda: compose.residual(partial(ops.linear, W=np.ones((8, 1))))(X_5_8[:, :1]),
            r"stage\(x\) has shape \(5, 8\)",
        ),
        (
            lambda: compose.residual(ops.relu)(X_5_8),
            "a stage has the inputs z, expected x among them: use renamed",
        ),
        (lambda: compose.add(WIDER, ops.softmax)(X_5_8), r"term_1 has shape \(5, 8\), expected that of"),
        (lambda: compose.features(7, 9)(X_5_8), "x has 8 features, expected those from 7 to 9"),
        (lambda: compose.split_heads(3)(X_5_8), "x has 8 features, expected a multiple of head_size = 3"),
    ],
)
def test_stages_that_do_not_fit_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_stage_whose_input_has_another_name_is_refused_in_the_backward():
    y, pullback = compose.chain(WIDER, ops.relu)(X_5_8)
    with pytest.raises(ValueError, match="a stage has the inputs z, expected x among them"):
        pullback(y)
    y, pullback = compose.chain(WIDER, compose.renamed(ops.relu, {"z": "x"}))(X_5_8)
    assert pullback(y)["x"].shape == (5, 8)


def test_an_unknown_name_is_refused():
    _, pullback = compositions(compose)["nested"].stage(WEIGHTS)(X)
    with pytest.raises(ValueError, match=r"^wrt names Z, expected some of x, W, U, V, A, B$"):
        pullback(X, wrt=("Z",))


# A test of the tests above: with one fault planted in compose.py, they must fail.

PATH = Path(compose.__file__)
FUNCTIONS = ("backward", "through", "_lowest", "_union", "_weights", "_split", "_join", "_swap")


def mutate(target):
    return MutateComposition(target, functions=FUNCTIONS)


@pytest.mark.parametrize("k", range(count_places(PATH, mutate)))
def test_a_fault_in_compose_is_seen(k):
    changed, fault = mutant("npl_lora.ops.compose", PATH, mutate(k))
    try:
        check_all(changed)
    except Exception:  # a wrong number is an AssertionError; a fault may also break the call
        return
    pytest.fail(f"no test above sees the fault that was planted in {fault}")


# The composed ops, by hand: the same operations in the same order, so the same bits.


def by_hand_layer(a, names, scale):
    W, A, B = names
    return partial(ops.lora_linear, W=a[W], A=a[A], B=a[B], scale=scale)


def by_hand_mlp(a, layers, activation):
    """y, and a function of dy that gives the gradients: the pullbacks in reverse order."""
    gate, gate_back = layers["gate"](a["x"])
    up, up_back = layers["up"](a["x"])
    inner, glu_back = ops.glu(gate, up, activation=activation)
    y, down_back = layers["down"](inner)

    def back(dy):
        down = down_back(dy, wrt=down_back.inputs)
        factors = glu_back(down.pop("x"))
        gate, up = (b(factors[n], wrt=b.inputs) for n, b in (("gate", gate_back), ("up", up_back)))
        grads = {"x": gate.pop("x") + up.pop("x")}
        for n, own in (("gate", gate), ("up", up), ("down", down)):
            grads |= {f"{name}_{n}": gradient for name, gradient in own.items()}
        return grads

    return y, back


def by_hand_attention(a, c):
    D = a["Wq"].shape[0] // c["n_heads"]
    layers = {n: by_hand_layer(a, (f"W{n}", f"A_{n}", f"B_{n}"), c["scale"]) for n in "qkvo"}

    def split(t):
        return np.swapaxes(t.reshape(*t.shape[:-1], t.shape[-1] // D, D), -2, -3)

    def join(t):
        t = np.swapaxes(t, -2, -3)
        return t.reshape(*t.shape[:-2], t.shape[-2] * D)

    values, backs, turns = {}, {}, {}
    for n in "qkv":
        y, backs[n] = layers[n](a["x"])
        values[n] = split(y)
        if c["rope_theta"] is not None and n != "v":
            values[n], turns[n] = ops.rope(values[n], theta=c["rope_theta"])
    mixed, attend_back = ops.attention(**values, causal=c["causal"], key_mask=a.get("key_mask"))
    y, out_back = layers["o"](join(mixed))

    def back(dy):
        out = out_back(dy, wrt=out_back.inputs)
        dvalues, dx = attend_back(split(out.pop("x"))), []
        grads = {"Wo": out["W"], "A_o": out["A"], "B_o": out["B"]}
        for n in "qkv":
            d = turns[n](dvalues[n])["x"] if n in turns else dvalues[n]
            own = backs[n](join(d), wrt=backs[n].inputs)
            grads |= {f"W{n}": own["W"], f"A_{n}": own["A"], f"B_{n}": own["B"]}
            dx.append(own["x"])
        return grads | {"x": dx[0] + dx[1] + dx[2]}

    return y, back


def by_hand(name, a, c):
    if name == "lora_attention":
        return by_hand_attention(a, c)
    if name == "gated_mlp":
        layers = {n: partial(ops.linear, W=a[f"W_{n}"]) for n in ("gate", "up", "down")}
    else:
        layers = {n: by_hand_layer(a, (f"W_{n}", f"A_{n}", f"B_{n}"), c["scale"]) for n in ("gate", "up", "down")}
    return by_hand_mlp(a, layers, c["activation"])


@pytest.mark.parametrize("name", ["gated_mlp", "lora_mlp", "lora_attention"])
@settings(max_examples=40)
@given(d=DIMS)
def test_a_composed_op_has_the_bits_of_its_composition_by_hand(name, d):
    inputs, config = build(name, d)
    y, pullback = getattr(ops, name)(**inputs, **config)
    expected_y, back = by_hand(name, inputs, config)
    dy = cotangent(y)
    grads, expected_grads = pullback(dy, wrt=pullback.inputs), back(dy)
    assert y.tobytes() == expected_y.tobytes()
    assert set(grads) == set(expected_grads)
    for n, gradient in grads.items():
        assert gradient.tobytes() == expected_grads[n].tobytes(), n
