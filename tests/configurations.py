"""The one table of the ops' inputs, in general position: for each op a function of drawn sizes and switches.

The tests of the ops and of gradcheck read it. A new op gets one entry here: a function under `@op`, or under
`@polynomial` when the op is a polynomial of its inputs, affine in each alone, and runs on Python integers. The function
takes sizes and switches d (see DIMS) and returns inputs and configuration; d's seed draws the floats. An activation of
glu needs none.
"""

import numpy as np
import pytest
from hypothesis import strategies as st

from npl_lora.ops.glu import ACTIVATIONS as OF_GLU

SWITCHES = ["bias", "mask", "causal", "padding", "fan", "interleaved", "count", "rope"]
SCALES = [0.5, 2.5, -1.25]
ACTIVATIONS = list(OF_GLU)

sizes = st.integers(1, 4)
DIMS = st.fixed_dictionaries(
    {
        "leading": st.lists(st.integers(0, 2), max_size=3).map(tuple),
        "seed": st.integers(0, 2**32 - 1),
        **dict.fromkeys(("in", "out", "r", "V", "F"), sizes),
        "T": st.integers(0, 3),
        "S": st.integers(0, 4),
        "G": st.integers(1, 2),
        "per": st.integers(1, 2),
        "half": st.integers(1, 2),
        "start": st.integers(-2, 9),
        "offset": st.integers(-2, 3),
        "window": st.none() | st.integers(1, 3),
        "scale": st.sampled_from(SCALES),
        "activation": st.sampled_from(ACTIVATIONS),
        **dict.fromkeys(SWITCHES, st.booleans()),
    }
)

# Points in general position, for tests that want few examples: no two sizes of an array alike, every switch both ways.
FIRST = {"leading": (2, 3), "seed": 1, "in": 3, "out": 4, "r": 2, "V": 5, "F": 5, "T": 3, "S": 4, "G": 2, "per": 2}
FIRST |= {
    "half": 1,
    "start": 3,
    "offset": 1,
    "window": 3,
    "scale": 2.5,
    "activation": "gelu",
    "rope": True,
    "count": True,
}
FIRST |= {"bias": True, "mask": True, "causal": True, "padding": True, "fan": True, "interleaved": True}
SECOND = FIRST | {"leading": (5,), "seed": 2, "in": 4, "out": 3, "F": 3, "G": 1, "half": 2, "start": 0, "scale": -1.25}
SECOND |= {"offset": 0, "window": None, "activation": "silu", "rope": False, "count": False, "bias": False}
SECOND |= {"mask": False, "causal": False, "padding": False, "fan": False, "interleaved": False}
THIRD = SECOND | {"activation": "gelu_tanh", "rope": True, "mask": True}
POINTS = {"first": FIRST, "second": SECOND, "third": THIRD}


def small(seed):
    """A point with sizes of 1 to 3 and every switch at random: for 50 digits, which are slow."""
    rng = np.random.default_rng(seed)
    d = {n: int(rng.integers(1, 4)) for n in ("in", "out", "r", "V", "F", "T", "S", "half")}
    d |= {n: int(rng.integers(1, 3)) for n in ("G", "per")}
    d |= {n: bool(rng.integers(2)) for n in SWITCHES}
    d |= {"start": int(rng.integers(-2, 10)), "offset": int(rng.integers(-2, 4))}
    d |= {
        "window": [None, 1, 2, 3][rng.integers(4)],
        "scale": SCALES[seed % 3],
        "activation": ACTIVATIONS[seed % len(ACTIVATIONS)],
    }
    return d | {"seed": seed, "leading": [(), (2,), (1, 2)][seed % 3]}


TABLE = {}  # {the op's name: the function that makes its inputs}
POLYNOMIALS = []


def op(make):
    """An entry of the table, under the function's name."""
    TABLE[make.__name__] = make
    return make


def polynomial(make):
    POLYNOMIALS.append(make.__name__)
    return op(make)


class Draw:
    def __init__(self, d):
        self.d = d
        self.rng = np.random.default_rng(d["seed"])

    def __call__(self, *shape):
        return self.rng.standard_normal(shape)

    def linear(self, names, out, in_):
        """W, A, B under their names."""
        W, A, B = names
        return {W: self(out, in_), A: self(self.d["r"], in_), B: self(out, self.d["r"])}

    def mask(self, *shape):
        """Shows some keys and hides others; the first row of several hides all."""
        mask = self.rng.random(shape) < 0.6
        rows = mask.reshape(-1, shape[-1]) if mask.size else mask[..., :0]
        rows[: int(len(rows) > 1)] = False
        return mask

    def dropout(self, *shape):
        return (self.rng.random(shape) < 0.75) / 0.75


@polynomial
def linear(d):
    f = Draw(d)
    b = {"b": f(d["out"])} if d["bias"] else {}
    return {"x": f(*d["leading"], d["in"]), "W": f(d["out"], d["in"]), **b}, {}


@polynomial
def lora_linear(d):
    f = Draw(d)
    more = {"b": f(d["out"])} if d["bias"] else {}
    more |= {"mask": f.dropout(*d["leading"], d["in"])} if d["mask"] else {}
    return {"x": f(*d["leading"], d["in"]), **f.linear("WAB", d["out"], d["in"]), **more}, {"scale": d["scale"]}


@op
def dora_linear(d):
    """n, the row norms, is given: what is constant in the backward is constant in every comparison."""
    f = Draw(d)
    more = {"b": f(d["out"])} if d["bias"] else {}
    arrays = {"x": f(*d["leading"], d["in"]), **f.linear("WAB", d["out"], d["in"]), "m": f(d["out"]), **more}
    return {**arrays, "n": 0.5 + np.abs(f(d["out"]))}, {"scale": d["scale"]}


def _window(d):
    """Kernel, stride, padding and dilation, and an image that the kernel fits into."""
    kernel, dilation = (d["half"], d["per"]), (d["per"], d["G"])
    size = [dilation[a] * (kernel[a] - 1) + 1 + d["TS"[a]] for a in (0, 1)]
    return size, kernel, {"stride": (d["G"], d["half"]), "padding": (int(d["bias"]), d["F"] - 1), "dilation": dilation}


@polynomial
def patches(d):
    size, kernel, places = _window(d)
    return {"x": Draw(d)(d["per"], d["in"], *size)}, {"kernel": kernel, **places}


@polynomial
def lora_conv2d(d):
    f = Draw(d)
    size, kernel, places = _window(d)
    x, W, A = f(d["per"], d["in"], *size), f(d["out"], d["in"], *kernel), f(d["r"], d["in"], *kernel)
    return {"x": x, "W": W, "A": A, "B": f(d["out"], d["r"], 1, 1)}, {"scale": d["scale"], **places}


def _ids(f, d):
    """Few tokens, so they repeat; two of them the padding token."""
    ids = f.rng.integers(0, d["V"], size=d["leading"])
    if d["padding"]:
        ids.reshape(ids.size)[:2] = d["V"] // 2
    return ids


@polynomial
def embedding(d):
    f = Draw(d)
    return {"ids": _ids(f, d), "E": f(d["V"], d["out"])}, {"padding_idx": d["V"] // 2 if d["padding"] else None}


@polynomial
def lora_embedding(d):
    f = Draw(d)
    inputs, config = embedding(d)
    more = {"mask": f.dropout(*d["leading"], d["r"])} if d["mask"] else {}
    return {**inputs, "A": f(d["r"], d["V"]), "B": f(d["out"], d["r"]), **more}, {**config, "scale": d["scale"]}


@polynomial
def dropout(d):
    f = Draw(d)
    return {"x": f(*d["leading"], d["in"]), "mask": f.dropout(*d["leading"], d["in"])}, {}


@polynomial
def merge(d):
    f = Draw(d)
    inputs = f.linear("WAB", d["out"], d["in"])
    if d["fan"]:
        inputs["W"] = f(d["in"], d["out"])
    return inputs, {"scale": d["scale"], "fan_in_fan_out": d["fan"]}


@polynomial
def unmerge(d):
    inputs, config = merge(d)
    return {"W_merged": inputs.pop("W"), **inputs}, config


@polynomial
def combine(d):
    """Two or three adapters of ranks r, F and V, one of them of negative weight."""
    f, ranks = Draw(d), [d["r"], d["F"], d["V"]][: 3 if d["bias"] else 2]
    pairs = [{f"A_{i}": f(r, d["in"]), f"B_{i}": f(d["out"], r)} for i, r in enumerate(ranks, start=1)]
    config = {"weights": [0.75, -1.5, 0.5][: len(ranks)], "scales": [d["scale"], 1.25, 3.0][: len(ranks)]}
    return {name: a for pair in pairs for name, a in pair.items()}, config


@polynomial
def lora_batched(d):
    """Three adapters of ranks r, F and V, padded with large numbers; rows with one of them or none, in any order."""
    f, ranks = Draw(d), [d["r"], d["F"], d["V"]]
    K, R, N = len(ranks), max(ranks) + int(d["padding"]), d["S"] + d["T"]
    A, B = f(K, R, d["in"]), f(K, d["out"], R)
    for k, r in enumerate(ranks):
        A[k, r:], B[k, :, r:] = 1e3, -1e3
    more = {"b": f(d["out"])} if d["bias"] else {}
    x, ids = f(N, *d["leading"][:2], d["in"]), np.resize(f.rng.permutation(K + 1) - 1, N)
    inputs = {"x": x, "W": f(d["out"], d["in"]), "A": A, "B": B, "ids": ids, **more}
    return inputs, {"ranks": ranks, "scales": [d["scale"], 1.25, -3.0]}


@op
def softmax(d):
    f = Draw(d)
    x = 2.0 * f(*d["leading"], d["in"])
    return {"x": x, **({"mask": f.mask(*x.shape)} if d["mask"] else {})}, {}


@op
def attention(d):
    f, D = Draw(d), 2 * d["half"]
    q = f(*d["leading"], d["G"] * d["per"], d["T"], D)
    k, v = f(*d["leading"], d["G"], d["S"], D), f(*d["leading"], d["G"], d["S"], d["out"])
    mask = {"key_mask": f.mask(*d["leading"], d["S"])} if d["mask"] else {}
    config = {"causal": d["causal"], "offset": d["offset"], "window": d["window"]}
    config |= {"softcap": 1.5} if d["rope"] else {}
    return {"q": q, "k": k, "v": v, **mask}, config | ({"scale": d["scale"]} if d["bias"] else {})


@op
def masked_mean(d):
    f = Draw(d)
    x = f(*d["leading"], d["T"], d["in"])
    return {"x": x, **({"mask": f.mask(*x.shape[:-1])} if d["mask"] else {})}, {}


@op
def rope(d):
    config = {"theta": 500.0 if d["bias"] else 10000.0, "start": d["start"], "interleaved": d["interleaved"]}
    return {"x": Draw(d)(*d["leading"], d["T"], 2 * d["half"])}, config


@op
def layer_norm(d):
    f = Draw(d)
    return {"x": f(*d["leading"], d["in"]), "w": f(d["in"]), "b": f(d["in"])}, {"eps": 2.0**-7}


@op
def rms_norm(d):
    f = Draw(d)
    return {"x": f(*d["leading"], d["in"]), "w": f(d["in"])}, {"eps": 2.0**-10}


def activation(d):
    return {"z": 2.0 * Draw(d)(*d["leading"], d["in"])}, {}


TABLE |= dict.fromkeys([*ACTIVATIONS, "tanh"], activation)


@op
def glu(d):
    f, shape = Draw(d), (*d["leading"], d["in"])
    return {"gate": f(*shape), "up": f(*shape)}, {"activation": d["activation"]}


@op
def gated_mlp(d):
    f, C, F = Draw(d), d["in"], d["F"]
    weights = {"W_gate": f(F, C), "W_up": f(F, C), "W_down": f(C, F)}
    return {"x": f(*d["leading"], C), **weights}, {"activation": d["activation"]}


@op
def lora_mlp(d):
    f, C, F = Draw(d), d["in"], d["F"]
    inputs = {"x": f(*d["leading"], C)}
    for n, (out, in_) in {"gate": (F, C), "up": (F, C), "down": (C, F)}.items():
        inputs |= f.linear((f"W_{n}", f"A_{n}", f"B_{n}"), out, in_)
    return inputs, {"activation": d["activation"], "scale": d["scale"]}


@op
def lora_attention(d):
    f, C, D, H, G = Draw(d), d["in"], 2 * d["half"], d["G"] * d["per"], d["G"]
    inputs = {"x": f(*d["leading"], d["T"], C)}
    for n, (out, in_) in {"q": (H * D, C), "k": (G * D, C), "v": (G * D, C), "o": (C, H * D)}.items():
        inputs |= {name: 0.5 * a for name, a in f.linear((f"W{n}", f"A_{n}", f"B_{n}"), out, in_).items()}
    if d["mask"]:
        inputs["key_mask"] = f.mask(*d["leading"], d["T"])
    config = {"scale": d["scale"], "n_heads": H, "n_kv_heads": G, "causal": d["causal"]}
    return inputs, {**config, "rope_theta": 500.0 if d["rope"] else None}


@op
def cross_entropy(d):
    f = Draw(d)
    labels = f.rng.integers(0, d["V"], size=d["leading"])
    labels = np.where(f.rng.random(d["leading"]) < 0.3, -7, labels)
    labels.reshape(labels.size)[: int(labels.size > 1)] = -7
    config = {"ignore_index": -7, **({"count": 7} if d["count"] else {})}
    return {"logits": 2.0 * f(*d["leading"], d["V"]), "labels": labels}, config


@op
def mean_squared_error(d):
    f, shape = Draw(d), (*d["leading"], d["in"])
    return {"prediction": f(*shape), "target": f(*shape)}, ({"count": 7} if d["count"] else {})


def build(name, d):
    """inputs, config of the op of that name."""
    return TABLE[name](d)


OPS = list(TABLE)


def points_of(name, labels=tuple(POINTS)):
    """The op's points {label: point}: the POINTS of these labels, and the first with each activation they leave out."""
    points = {label: POINTS[label] for label in labels}
    if "activation" in build(name, FIRST)[1]:
        there = {point["activation"] for point in points.values()}
        points |= {act: FIRST | {"activation": act} for act in ACTIVATIONS if act not in there}
    return points


def each_point(*labels):
    """Marks a test that takes an op's name and one of its points."""
    pairs = {
        f"{name}-{label}": (name, point)
        for name in OPS
        for label, point in points_of(name, labels or tuple(POINTS)).items()
    }
    return pytest.mark.parametrize(("name", "point"), pairs.values(), ids=pairs)
