"""Right ways to compute the contracts in the case's own dtype, and wrong ones. Written here in plain NumPy, not with
ops, except where a contract is too long to write twice: there the ops themselves run in the case's dtype."""

import math

import numpy as np

from npl_lora.oracle import CONTRACTS
from npl_lora.oracle.definition import RIGHT
from npl_lora.oracle.subjects.injected import Injected
from npl_lora.oracle.tolerance.judge import right_answer
from npl_lora.oracle.tolerance.measured import tighten
from npl_lora.oracle.tolerance.merging import merge_weights, merged_linear
from npl_lora.oracle.tolerance.rounding import PRECISIONS, RoundingNamespace


def right_of(case):
    """The right answer of a case, with what is allowed."""
    answer = CONTRACTS[case.contract].answer
    return tighten(case, right_answer(case, answer), answer)


def with_masks(case, seed=0):
    """A lora_dropout case with masks as a subject would draw them; any other as it is."""
    return Injected(seed=seed).question(case)


def scale(config):
    return config["alpha"] / (math.sqrt(config["r"]) if config["use_rslora"] else config["r"])


def flat(t):
    return t.reshape(-1, t.shape[-1])


def wide_matmul(a, b):
    """Half precision multiplied with sums in float32, as matrix units do."""
    if a.dtype.itemsize > 2:
        return a @ b
    return (a.astype(np.float32) @ b.astype(np.float32)).astype(a.dtype)


def _backward(case, s, xd, mask):
    """The plain gradients."""
    W, A, B, dy = (case[name] for name in ("W", "A", "B", "dy"))
    dh = s * wide_matmul(dy, B)
    return {
        "dx": wide_matmul(dy, W) + mask * wide_matmul(dh, A),
        "dA": wide_matmul(flat(dh).T, flat(xd)),
        "dB": s * wide_matmul(flat(dy).T, flat(wide_matmul(xd, A.T))),
    }


def _parts(case):
    dtype = case["x"].dtype.type
    mask = case["mask"] if "mask" in case else np.ones_like(case["x"])
    bias = case["b"] if "b" in case else dtype(0)
    return dtype, mask, bias, dtype(scale(case.config))


def plain(case):
    _, mask, bias, s = _parts(case)
    xd = case["x"] * mask
    y = wide_matmul(case["x"], case["W"].T) + bias + s * wide_matmul(wide_matmul(xd, case["A"].T), case["B"].T)
    return {"y": y, **_backward(case, s, xd, mask)}


def alpha_before_r(case):
    """alpha times the product, then divided by r (or its root): two roundings for the scale, and the largest
    numbers."""
    dtype, mask, bias, s = _parts(case)
    r = math.sqrt(case.config["r"]) if case.config["use_rslora"] else case.config["r"]
    xd = case["x"] * mask
    low = dtype(case.config["alpha"]) * wide_matmul(wide_matmul(xd, case["A"].T), case["B"].T) / dtype(r)
    return {"y": low + (wide_matmul(case["x"], case["W"].T) + bias), **_backward(case, s, xd, mask)}


def root_in_both(case):
    """sqrt(s) folded into both factors, each product stored."""
    dtype, mask, bias, _ = _parts(case)
    root = dtype(math.sqrt(scale(case.config)))
    x, W, A, B, dy = (case[name] for name in ("x", "W", "A", "B", "dy"))
    A, B, xd = root * A, root * B, x * mask
    h, dh = wide_matmul(xd, A.T), wide_matmul(dy, B)
    return {
        "y": wide_matmul(x, W.T) + (wide_matmul(h, B.T) + bias),
        "dx": wide_matmul(dy, W) + mask * wide_matmul(dh, A),
        "dA": root * wide_matmul(flat(dh).T, flat(xd)),
        "dB": root * wide_matmul(flat(dy).T, flat(h)),
    }


def merged_weight(case):
    """x (W + s B A)^T where no mask parts the two paths; dx likewise."""
    if "mask" in case:
        return plain(case)
    _, mask, bias, s = _parts(case)
    W = case["W"] + s * wide_matmul(case["B"], case["A"])
    grads = _backward(case, s, case["x"], mask)
    return {**grads, "y": wide_matmul(case["x"], W.T) + bias, "dx": wide_matmul(case["dy"], W)}


def token_by_token(case):
    """Sums over the tokens one by one, kept in float32 at least."""
    _, mask, _, s = _parts(case)
    answer = plain(case)
    dtype = np.promote_types(case["x"].dtype, np.float32)
    xd, dy = flat(case["x"] * mask).astype(dtype), flat(case["dy"]).astype(dtype)
    dA, dB = (np.zeros(case[name].shape, dtype) for name in "AB")
    for x, d in zip(xd, dy, strict=True):
        dA += np.multiply.outer(s * (d @ case["B"].astype(dtype)), x)
        dB += s * np.multiply.outer(d, x @ case["A"].T.astype(dtype))
    return {**answer, "dA": dA, "dB": dB}


LINEAR = [plain, alpha_before_r, root_in_both, merged_weight, token_by_token]


class Stored(RoundingNamespace):
    """Rounds every result to bfloat16, which the ops do not run in: NumPy widens it to float32 where it likes."""

    def __init__(self):
        super().__init__(PRECISIONS["bfloat16"])

    def _stored(self, value, *errors):
        return super()._stored(np.asarray(value).astype("bfloat16").astype(np.float64), *errors)


def native(case):
    """The case's arrays such that the ops round to its dtype, and what turns their answers into NumPy arrays."""
    if case.dtype != "bfloat16":
        return case.arrays, lambda array: array
    xp = Stored()
    arrays = {name: xp.exact(array) for name, array in case.arrays.items()}
    return arrays, lambda array: array.value.astype("bfloat16")


def in_dtype(case):
    """The contract's own answer, every operation in the case's dtype."""
    arrays, plain_array = native(case)
    outputs = CONTRACTS[case.contract].answer(arrays, case.config)
    return {name: plain_array(output) for name, output in outputs.items()}


def in_dtype_merged(case):
    """The value from merged weights, every operation in the case's dtype."""
    contract = CONTRACTS[case.contract]
    answer = in_dtype(case)
    if contract.forward is None or "alpha" not in case.config:
        return answer
    arrays, plain_array = native(case)
    first = next(iter(answer))
    if case.contract == "lora_batched":  # each row has the weight of its own adapter
        merged = contract.forward(arrays, case.config, RIGHT.wrapped(lora_linear=merged_linear))
    else:
        merged = contract.forward(merge_weights(arrays, scale(case.config)), case.config)
    return {**answer, first: plain_array(merged[0])}


ANY = [in_dtype, in_dtype_merged]


# Wrong ones, each a change of what `plain` answers: (name, change).

FAULTS = {
    "dB lacks the scale": lambda case, a, s: {**a, "dB": a["dB"] / s},
    "dA lacks the scale": lambda case, a, s: {**a, "dA": a["dA"] / s},
    "alpha in place of the scale": lambda case, a, s: {**a, "y": _base(case) + (a["y"] - _base(case)) * _ratio(case)},
    "base path missing from dx": lambda case, a, s: {**a, "dx": a["dx"] - case["dy"] @ case["W"]},
    "first token missing from dB": lambda case, a, s: {**a, "dB": a["dB"] - _first_token_dB(case, s)},
    "one element of dA": lambda case, a, s: {**a, "dA": _one_element(a["dA"])},
}


def _base(case):
    return case["x"] @ case["W"].T + case.arrays.get("b", 0)


def _ratio(case):
    return np.dtype(case.dtype).type(case.config["alpha"] / scale(case.config))


def _first_token_dB(case, s):
    x, dy = flat(case["x"])[0], flat(case["dy"])[0]
    return s * np.multiply.outer(dy, case["A"] @ x)


def _one_element(t):
    t = t.copy()
    t.flat[np.argmax(np.abs(t))] *= t.dtype.type(1.25)
    return t
