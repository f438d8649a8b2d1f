"""The package's own ops as a subject. An oracle that answers from its own pullbacks would agree with itself whatever
they say, so this subject answers by other roads:

* values with LoRA merged into the weights, where merging changes nothing;
* every gradient by the complex step, Im f(x + ih) / h, of the forward alone;
* and, for the contracts that are polynomials, a proof: the pullback on random 80-bit integers against the exact
  derivative, and the merged road against the unmerged one, with no rounding at all.
"""

import inspect
import math
from collections.abc import Callable, Mapping

import numpy as np

from ... import ops
from ...gradcheck import gradcheck
from ...gradcheck.exact import draw
from ...lora import dropout_mask
from ...lora import factors as init_factors
from ..case import Case, widen
from ..contracts import CONTRACTS, adapter_combine, lora_dropout, train_steps
from ..contracts.contract import Array, Config, Draw, Polynomial, inputs
from ..definition import RIGHT, Definition, scale
from ..report import CaseReport
from ..tolerance.judge import OutputVerdict
from ..tolerance.merging import merge_weights
from . import Answer

_STEP = 2.0**-664  # about 1e-200, and a power of two: the derivative of whole numbers is a whole number

Arrays = Mapping[str, Array]


class SelfSubject:
    """The ops, answering for themselves."""

    name = "self"
    contracts = tuple(CONTRACTS)

    def ask(self, case: Case) -> Answer:
        return Answer(outputs=(_ROADS.get(case.contract, _differentiate)(case, widen(case)),))

    def proof(self, contract: str) -> list[CaseReport]:
        """The exact check over the integers, for a contract whose op is a polynomial of its inputs."""
        polynomial = CONTRACTS[contract].polynomial
        return [_prove(contract, polynomial)] if polynomial else []

    def close(self) -> None:
        """Nothing runs."""


def _initialise(case: Case, arrays: Arrays) -> dict[str, np.ndarray]:
    """What the package's own layers begin with; an embedding has A and B the other way round."""
    rng, r = np.random.default_rng(), case.config["r"]
    if case.config["layer"] == "embedding":
        V, D = arrays["W"].shape
        return {"A": np.zeros((r, V)), "B": rng.standard_normal((D, r))}
    init = {"kaiming_uniform": "kaiming", "gaussian": "gaussian"}[case.config["distribution"]]
    out, in_ = arrays["W"].shape
    A, B = init_factors(out, in_, r, init, rng, np.float64)
    return {"A": A, "B": B}


def _drop(case: Case, arrays: Arrays) -> dict[str, np.ndarray]:
    """Masks of the package's own, and every gradient under the first by the complex step."""
    rng, config = np.random.default_rng(), case.config
    names = ("x", "A", "B") if config["layer"] == "linear" else ("A", "B")
    shape = arrays["x"].shape if config["layer"] == "linear" else (*arrays["ids"].shape, config["r"])
    mask, again = (dropout_mask(shape, config["p"], rng, np.float64) for _ in range(2))

    def y(at: Arrays) -> Array:
        return lora_dropout.forward(at, config, RIGHT, at.get("mask"))[0]

    training = {**arrays, "mask": mask}
    grads = {f"d{name}": complex_step(y, training, name, arrays["dy"]) for name in names}
    return {"y": y(training), "y_again": y({**arrays, "mask": again}), "y_eval": y(arrays), **grads}


def _differentiate(case: Case, arrays: Arrays) -> dict[str, np.ndarray]:
    """The value from merged weights, and the complex-step derivative of <dy, value>."""
    forward = CONTRACTS[case.contract].forward
    assert forward is not None
    arrays = {**arrays, **_held(case, arrays)}
    _, pullback = forward(arrays, case.config)
    lora, dy = "alpha" in case.config, arrays.get("dy", 1.0)
    value, _ = forward(merge_weights(arrays, scale(case.config)) if lora else arrays, case.config)
    outputs = {"y" if lora else "loss": value}
    for name in pullback.inputs:
        if name not in pullback.frozen:
            outputs[f"d{name}"] = complex_step(lambda changed: forward(changed, case.config)[0], arrays, name, dy)
    if case.config.get("padding_idx") is not None:
        outputs["dA"][:, case.config["padding_idx"]] = 0.0  # by convention, not the derivative: it is to stay as it is
    return outputs


def _held(case: Case, arrays: Arrays) -> dict[str, np.ndarray]:
    """What is constant in the backward though it depends on what is differentiated: DoRA's row norms."""
    if case.contract != "dora_linear":
        return {}
    V = arrays["W"] + scale(case.config) * (arrays["B"] @ arrays["A"])
    return {"n": np.asarray([math.hypot(*row) for row in V])}


def complex_step(f: Callable[[Arrays], Array], arrays: Arrays, name: str, dy: Array) -> np.ndarray:
    """The derivative of <dy, f> by arrays[name], element by element."""
    at = arrays[name].astype(np.complex128)
    if name == "x" and at.ndim > 1:
        return _by_batches(f, arrays, at, dy)
    gradient = np.empty(at.shape)
    for index in np.ndindex(at.shape):
        shifted = at.copy()
        shifted[index] += 1j * _STEP
        gradient[index] = np.sum(np.imag(f({**arrays, name: shifted})) / _STEP * dy)
    return gradient


def _by_batches(f: Callable[[Arrays], Array], arrays: Arrays, x: np.ndarray, dy: Array) -> np.ndarray:
    """The same for x: its copies, each with one element shifted, are one longer batch. (Quicker than one by one.)"""
    copies = x.size
    shifted = np.tile(x, (copies,) + (1,) * x.ndim)
    shifted.reshape(copies, copies)[np.diag_indices(copies)] += 1j * _STEP
    longer = {"x": shifted.reshape(-1, *x.shape[1:])}
    for name in {"mask", "key_mask"} & arrays.keys():
        longer[name] = np.tile(arrays[name], (copies,) + (1,) * (arrays[name].ndim - 1))
    value = f({**arrays, **longer}).reshape(copies, -1)
    return np.asarray(np.sum(np.imag(value) / _STEP * np.reshape(dy, -1), axis=1).reshape(x.shape))


def _rank_one_updates(case: Case, arrays: Arrays) -> dict[str, np.ndarray]:
    """W + s sum_k B_k A_k, an outer product at a time."""
    W, delta = arrays["W"], scale(case.config) * _outer_products(arrays["A"], arrays["B"])
    return {"W_merged": W + (delta.T if case.config["fan_in_fan_out"] else delta), "W_unmerged": W}


def _outer_products(A: Array, B: Array) -> Array:
    return sum(np.multiply.outer(B[:, k], A[k]) for k in range(A.shape[0]))


def _combine(case: Case, arrays: Arrays) -> dict[str, np.ndarray]:
    """An outer product at a time; at a lower rank, the nearest product of two factors, with no singular value."""
    shares = [w * s for w, s in zip(case.config["weights"], adapter_combine.scales(case.config), strict=True)]
    pairs = ((arrays[f"A_{i}"], arrays[f"B_{i}"]) for i in range(1, len(shares) + 1))
    delta = sum(share * _outer_products(A, B) for share, (A, B) in zip(shares, pairs, strict=True))
    return {"delta": _fit(delta, case.config["r_new"]) if case.config["combination"] == "svd" else delta}


def _fit(delta: np.ndarray, rank: int) -> np.ndarray:
    """The product B A nearest to delta, each factor in turn as the other would have it (alternating least squares).

    A turn shrinks what is wrong by (sigma_{rank + 1} / sigma_rank)^2, which is at most 1 / 1.5^2: 100 turns, 1e-35.
    """
    A = delta[:rank]
    for _ in range(100):
        B = delta @ np.linalg.pinv(A)
        A = np.linalg.pinv(B) @ delta
    return B @ A


def _train(case: Case, arrays: Arrays) -> dict[str, np.ndarray]:
    """The same steps with every gradient by the complex step."""

    def gradients(
        at: Arrays, config: Config, d: Definition, trained: tuple[str, ...]
    ) -> tuple[Array, dict[str, Array]]:
        def loss(at: Arrays) -> Array:
            return train_steps.loss_and_pullback(at, config, d)[0]

        return loss(at), {name: complex_step(loss, at, name, 1.0) for name in trained}

    return train_steps.answer(arrays, case.config, RIGHT, gradients)


_ROADS = {
    "lora_merge": _rank_one_updates,
    "adapter_combine": _combine,
    "train_steps": _train,
    "lora_init": _initialise,
    "lora_dropout": _drop,
}


def _prove(contract: str, polynomial: Polynomial) -> CaseReport:
    """The pullback against the exact derivative, and the merged road against the unmerged one, over the integers."""
    op = getattr(ops, polynomial.op)
    arrays, config = CONTRACTS[contract].draws[polynomial.case](Draw("integers", "float64"))
    how = {name: config[name] for name in inspect.signature(op).parameters.keys() & config.keys()}
    report = gradcheck(op, {**inputs(arrays), "scale": 1.0}, method="exact", **how)
    outputs = {
        f"d{r.name}": OutputVerdict("pass" if r.ok else "fail", 0.0 if r.ok else None, 0.0, r.note)
        for r in report.results
    }
    if contract != "lora_merge":
        outputs["y"] = _same_roads(op, {n: a for n, a in inputs(arrays).items() if n != "mask"}, how)
    failed = [n for n, output in outputs.items() if output.verdict == "fail"]
    message = f"wrong over the integers: {', '.join(failed)}" if failed else "; ".join(report.remarks)
    verdict = "fail" if failed or not report.ok else "pass"
    return CaseReport(f"{contract}/exact/integers", "integer", verdict, message, outputs)


def _same_roads(op: Callable[..., tuple[Array, ops.Pullback]], arrays: Arrays, how: Config) -> OutputVerdict:
    """op on random integers, merged and not: equal, or one of the two is wrong."""
    rng = np.random.default_rng(0)
    drawn = draw({**arrays, "scale": 1.0}, rng)
    s = drawn.pop("scale")
    apart, together = (op(**a, scale=s, **how)[0] for a in (drawn, merge_weights(drawn, s)))
    same = np.array_equal(apart, together)
    return OutputVerdict("pass" if same else "fail", 0.0 if same else None, 0.0, "" if same else "merged differs")
