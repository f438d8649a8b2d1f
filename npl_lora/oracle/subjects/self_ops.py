"""The package's own ops as a subject. An oracle that answered from its own pullbacks would always agree with itself, so
this subject computes its answers in other ways:

* values with LoRA merged into the weights, if merging does not change the result, and those of norms and rotations
  number by number, by other formulas;
* every gradient by the complex step, Im f(x + ih) / h, which needs the forward alone;
* for the contracts that are polynomials, also a proof: the pullback on random 80-bit integers against the exact
  derivative, and merged against unmerged weights, without any rounding.
"""

import cmath
import inspect
import math
from collections.abc import Callable, Mapping

import numpy as np

from ... import ops
from ...gradcheck import gradcheck
from ...gradcheck.exact import draw
from ...lora import dropout_mask
from ...lora import factors as init_factors
from ..case import Case, is_dropout_mask, widen
from ..contracts import CONTRACTS, lora_dropout, train_steps
from ..contracts.contract import Array, Config, Draw, Polynomial, inputs, scales
from ..definition import RIGHT, Definition, scale
from ..report import CaseReport
from ..tolerance.judge import OutputVerdict
from ..tolerance.merging import merge_weights
from . import Answer

_STEP = 2.0**-664  # about 1e-200, and a power of two, so integers have integer derivatives

Arrays = Mapping[str, Array]


class SelfSubject:
    """The package's own ops."""

    name = "self"
    contracts = tuple(CONTRACTS)

    def ask(self, case: Case) -> Answer:
        return Answer(outputs=(_ROUTES.get(case.contract, _differentiate)(case, widen(case)),))

    def proof(self, contract: str) -> list[CaseReport]:
        """The exact check over the integers, for a contract whose op is a polynomial in its inputs."""
        polynomial = CONTRACTS[contract].polynomial
        return [_prove(contract, polynomial)] if polynomial else []

    def close(self) -> None:
        """Nothing runs."""


def _initialise(case: Case, arrays: Arrays) -> dict[str, np.ndarray]:
    """The initial A and B of the package's own layers. In an embedding, A is zero and B random."""
    rng, r = np.random.default_rng(), case.config["r"]
    if case.config["layer"] == "embedding":
        V, D = arrays["W"].shape
        return {"A": np.zeros((r, V)), "B": rng.standard_normal((D, r))}
    init = {"kaiming_uniform": "kaiming", "gaussian": "gaussian"}[case.config["distribution"]]
    out, in_ = arrays["W"].shape
    A, B = init_factors(out, in_, r, init, rng, np.float64)
    return {"A": A, "B": B}


def _drop(case: Case, arrays: Arrays) -> dict[str, np.ndarray]:
    """Two masks drawn by the package, and every gradient with the first one by the complex step."""
    rng, config = np.random.default_rng(), case.config
    names = ("x", "A", "B") if config["layer"] == "linear" else ("A", "B")
    shape = arrays["x"].shape if config["layer"] == "linear" else (*arrays["ids"].shape, config["r"])
    mask, second_mask = (dropout_mask(shape, config["p"], rng, np.float64) for _ in range(2))

    def y(at: Arrays) -> Array:
        return lora_dropout.forward(at, config, RIGHT, at.get("mask"))[0]

    training = {**arrays, "mask": mask}
    grads = {f"d{name}": complex_step(y, training, name, arrays["dy"], by_token=True) for name in names}
    return {"y": y(training), "y_again": y({**arrays, "mask": second_mask}), "y_eval": y(arrays), **grads}


def _differentiate(case: Case, arrays: Arrays) -> dict[str, np.ndarray]:
    """The value from merged weights, and the complex-step derivative of <dy, value>."""
    forward = CONTRACTS[case.contract].forward
    assert forward is not None
    arrays = {**arrays, **_constants(case, arrays)}
    _, pullback = forward(arrays, case.config)
    dy = arrays.get("dy", 1.0)
    if case.contract in _VALUES:
        value = _VALUES[case.contract](arrays, case.config)
    else:
        lora = "alpha" in case.config
        value, _ = forward(merge_weights(arrays, scale(case.config)) if lora else arrays, case.config)
    outputs = {CONTRACTS[case.contract].value_name: value}
    by_token = "x" in CONTRACTS[case.contract].leading
    trained = [name for name in pullback.inputs if name not in pullback.frozen]
    for name in trained:
        outputs[f"d{name}"] = complex_step(lambda at: forward(at, case.config)[0], arrays, name, dy, by_token)
    if case.config.get("padding_idx") is not None:
        outputs["dA"][:, case.config["padding_idx"]] = (
            0.0  # not the derivative but a convention: this column is never trained
        )
    return outputs


def _constants(case: Case, arrays: Arrays) -> dict[str, np.ndarray]:
    """DoRA's row norms. The backward treats them as constants, although they depend on A and B."""
    norms = {}
    for n in [name[1:] for name in arrays if name == "m" or name.startswith("m_")]:
        W = arrays[f"W{n}"] if f"W{n}" in arrays else arrays[f"W{n[1:]}"]
        V = W + scale(case.config) * (arrays[f"B{n}"] @ arrays[f"A{n}"])
        norms[f"n{n}"] = np.asarray([math.hypot(*row) for row in V])
    return norms


def _norm(arrays: Arrays, config: Config) -> np.ndarray:
    """sqrt(n) w x / |(x, sqrt(n eps))|, one token after another."""
    x, w = arrays["x"], arrays["w"]
    n = w.size
    tokens = [math.sqrt(n) * w * row / math.hypot(*row, math.sqrt(n * config["eps"])) for row in x.reshape(-1, n)]
    return np.asarray(tokens).reshape(x.shape)


def _rotate(arrays: Arrays, config: Config) -> np.ndarray:
    """Each pair is a complex number, times exp(i phi)."""
    x, D = arrays["x"], arrays["x"].shape[-1]
    pairs = [(2 * i, 2 * i + 1) if config["interleaved"] else (i, i + D // 2) for i in range(D // 2)]
    y = np.empty_like(x)
    for t, p in enumerate(arrays["positions"]):
        for i, (a, b) in enumerate(pairs):
            z = (x[..., t, a] + 1j * x[..., t, b]) * cmath.exp(1j * p / config["theta"] ** (2 * i / D))
            y[..., t, a], y[..., t, b] = z.real, z.imag
    return y


_VALUES = {"rms_norm": _norm, "rope": _rotate}


def complex_step(
    f: Callable[[Arrays], Array], arrays: Arrays, name: str, dy: Array, by_token: bool = False
) -> np.ndarray:
    """The derivative of <dy, f> with respect to arrays[name], element by element. by_token: each token of f is a
    function of its own token of x."""
    at = arrays[name].astype(np.complex128)
    if name == "x" and by_token:
        return _derivative_by_features(f, arrays, at, dy)
    if name == "x" and at.ndim > 1:
        return _derivative_by_x(f, arrays, at, dy)
    gradient = np.empty(at.shape)
    for index in np.ndindex(at.shape):
        shifted = at.copy()
        shifted[index] += 1j * _STEP
        gradient[index] = np.sum(np.imag(f({**arrays, name: shifted})) / _STEP * dy)
    return gradient


def _derivative_by_features(f: Callable[[Arrays], Array], arrays: Arrays, x: np.ndarray, dy: Array) -> np.ndarray:
    """The same for x, but faster: one feature of all tokens at once."""
    gradient = np.empty(x.shape)
    for i in range(x.shape[-1]):
        shifted = x.copy()
        shifted[..., i] += 1j * _STEP
        gradient[..., i] = np.sum(np.imag(f({**arrays, "x": shifted})) / _STEP * dy, axis=-1)
    return gradient


def _derivative_by_x(f: Callable[[Arrays], Array], arrays: Arrays, x: np.ndarray, dy: Array) -> np.ndarray:
    """The same for x, but faster: copies of x, each with one element shifted, form one longer batch."""
    copies = x.size
    shifted = np.tile(x, (copies,) + (1,) * x.ndim)
    shifted.reshape(copies, copies)[np.diag_indices(copies)] += 1j * _STEP
    longer = {"x": shifted.reshape(-1, *x.shape[1:])}
    for name in [name for name in arrays if name in ("key_mask", "ids") or is_dropout_mask(name)]:
        longer[name] = np.tile(arrays[name], (copies,) + (1,) * (arrays[name].ndim - 1))
    value = f({**arrays, **longer}).reshape(copies, -1)
    return np.asarray(np.sum(np.imag(value) / _STEP * np.reshape(dy, -1), axis=1).reshape(x.shape))


def _rank_one_updates(case: Case, arrays: Arrays) -> dict[str, np.ndarray]:
    """W + s sum_k B_k A_k, one outer product at a time."""
    W, delta = arrays["W"], scale(case.config) * _outer_products(arrays["A"], arrays["B"])
    return {"W_merged": W + (delta.T if case.config["fan_in_fan_out"] else delta), "W_unmerged": W}


def _outer_products(A: Array, B: Array) -> Array:
    return sum(np.multiply.outer(B[:, k], A[k]) for k in range(A.shape[0]))


def _combine(case: Case, arrays: Arrays) -> dict[str, np.ndarray]:
    """One outer product at a time. For a lower rank, the nearest product of two factors, computed without an SVD."""
    shares = [w * s for w, s in zip(case.config["weights"], scales(case.config), strict=True)]
    pairs = ((arrays[f"A_{i}"], arrays[f"B_{i}"]) for i in range(1, len(shares) + 1))
    delta = sum(share * _outer_products(A, B) for share, (A, B) in zip(shares, pairs, strict=True))
    return {"delta": _fit(delta, case.config["r_new"]) if case.config["combination"] == "svd" else delta}


def _batch(case: Case, arrays: Arrays) -> dict[str, np.ndarray]:
    """Row by row, with the low-rank update of the row's own adapter merged into the weight, one outer product at a
    time; and every gradient by the complex step."""
    forward = CONTRACTS[case.contract].forward
    assert forward is not None
    adapters = zip(arrays["A"], arrays["B"], case.config["r"], scales(case.config), strict=True)
    merged = [arrays["W"] + s * _outer_products(A[:r], B[:, :r]) for A, B, r, s in adapters]
    weights = [merged[k] if k >= 0 else arrays["W"] for k in arrays["ids"]]
    rows = [x @ weight.T + arrays.get("b", 0.0) for x, weight in zip(arrays["x"], weights, strict=True)]

    def y(at: Arrays) -> Array:
        return forward(at, case.config)[0]

    return {
        "y": np.stack(rows),
        **{f"d{name}": complex_step(y, arrays, name, arrays["dy"]) for name in ("x", "A", "B")},
    }


def _fit(delta: np.ndarray, rank: int) -> np.ndarray:
    """The product B A nearest to delta, by alternating least squares: each factor in turn is solved for the other.

    A turn shrinks the error by (sigma_{rank + 1} / sigma_rank)^2, at most 1 / 1.5^2. 100 turns shrink it to 1e-35.
    """
    A = delta[:rank]
    for _ in range(100):
        B = delta @ np.linalg.pinv(A)
        A = np.linalg.pinv(B) @ delta
    return B @ A


def _train(case: Case, arrays: Arrays) -> dict[str, np.ndarray]:
    """The same training steps, with every gradient by the complex step."""

    def gradients(
        at: Arrays, config: Config, d: Definition, trained: tuple[str, ...]
    ) -> tuple[Array, dict[str, Array]]:
        def loss(at: Arrays) -> Array:
            return train_steps.loss_and_pullback(at, config, d)[0]

        return loss(at), {name: complex_step(loss, at, name, 1.0) for name in trained}

    return train_steps.answer(arrays, case.config, RIGHT, gradients)


_ROUTES = {
    "lora_merge": _rank_one_updates,
    "adapter_combine": _combine,
    "lora_batched": _batch,
    "train_steps": _train,
    "lora_init": _initialise,
    "lora_dropout": _drop,
}


def _prove(contract: str, polynomial: Polynomial) -> CaseReport:
    """The pullback against the exact derivative, and merged against unmerged weights, over the integers."""
    op = getattr(ops, polynomial.op)
    arrays, config = CONTRACTS[contract].draws[polynomial.case](Draw("integers", "float64"))
    options = {name: config[name] for name in inspect.signature(op).parameters.keys() & config.keys()}
    report = gradcheck(op, {**inputs(arrays), "scale": 1.0}, method="exact", **options)
    outputs = {
        f"d{r.name}": OutputVerdict("pass" if r.ok else "fail", 0.0 if r.ok else None, 0.0, r.note)
        for r in report.results
    }
    if contract != "lora_merge":
        outputs["y"] = _compare_merged(op, {n: a for n, a in inputs(arrays).items() if n != "mask"}, options)
    failed = [n for n, output in outputs.items() if output.verdict == "fail"]
    message = f"wrong over the integers: {', '.join(failed)}" if failed else "; ".join(report.remarks)
    verdict = "fail" if failed or not report.ok else "pass"
    return CaseReport(f"{contract}/exact/integers", "integer", verdict, message, outputs)


def _compare_merged(op: Callable[..., tuple[Array, ops.Pullback]], arrays: Arrays, options: Config) -> OutputVerdict:
    """op on random integers, with merged and unmerged weights. If the two differ, one of them is wrong."""
    rng = np.random.default_rng(0)
    drawn = draw({**arrays, "scale": 1.0}, rng)
    s = drawn.pop("scale")
    unmerged, merged = (op(**a, scale=s, **options)[0] for a in (drawn, merge_weights(drawn, s)))
    same = np.array_equal(unmerged, merged)
    return OutputVerdict("pass" if same else "fail", 0.0 if same else None, 0.0, "" if same else "merged differs")
