"""The package's own ops as a subject. An oracle that answers from its own pullbacks would agree with itself whatever they
say, so this subject answers by other roads:

* values with LoRA merged into the weights, where merging changes nothing;
* every gradient by the complex step, Im f(x + ih) / h, of the forward alone;
* and, for the contracts that are polynomials, a proof: the pullback on random 80-bit integers against the exact
  derivative, and the merged road against the unmerged one, with no rounding at all.
"""

from collections.abc import Callable, Mapping

import numpy as np

from ... import ops
from ...gradcheck import gradcheck
from ..case import Case
from ..check import CaseReport
from ..contracts import CONTRACTS, train_steps
from ..contracts._contract import Array, scale
from ..judge import OutputVerdict
from . import Answer

_STEP = 1e-200

Arrays = Mapping[str, Array]


class SelfSubject:
    """The ops, answering for themselves."""

    name = "self"
    contracts = tuple(CONTRACTS)

    def ask(self, case: Case) -> Answer:
        arrays = {name: a if a.dtype.kind in "biu" else a.astype(np.float64) for name, a in case.arrays.items()}
        road = {"lora_merge": _rank_one_updates, "train_steps": _train}.get(case.contract, _differentiate)
        return Answer(outputs=(road(case, arrays),))

    def proof(self, contract: str) -> list[CaseReport]:
        """The exact check over the integers, for a contract whose op is a polynomial of its inputs."""
        return [_prove(contract)] if contract in _POLYNOMIALS else []

    def close(self) -> None:
        """Nothing runs."""


def _differentiate(case: Case, arrays: Arrays) -> dict[str, np.ndarray]:
    """The value from merged weights, and the complex-step derivative of <dy, value>."""
    forward = CONTRACTS[case.contract].forward
    assert forward is not None
    _, pullback = forward(arrays, case.config)
    dy = arrays.get("dy", 1.0)
    outputs = {"loss" if case.contract == "cross_entropy" else "y": forward(_merged(case, arrays), case.config)[0]}
    for name in pullback.inputs:
        if name not in pullback.frozen:
            outputs[f"d{name}"] = complex_step(lambda changed: forward(changed, case.config)[0], arrays, name, dy)
    return outputs


def complex_step(f: Callable[[Arrays], Array], arrays: Arrays, name: str, dy: Array) -> np.ndarray:
    """The derivative of <dy, f> by arrays[name], element by element."""
    at = arrays[name].astype(np.complex128)
    gradient = np.empty(at.shape)
    for index in np.ndindex(at.shape):
        shifted = at.copy()
        shifted[index] += 1j * _STEP
        gradient[index] = np.sum(np.imag(f({**arrays, name: shifted})) / _STEP * dy)
    return gradient


def _merged(case: Case, arrays: Arrays) -> Arrays:
    """The same question with s B A moved from the factors into the weights. (Not where dropout parts the two paths.)"""
    changed = dict(arrays)
    for weight in [] if "mask" in arrays else [name for name in arrays if name[0] in "WE"]:
        n = weight[1:].lstrip("_")
        A, B = (f"{factor}_{n}" if n else factor for factor in "AB")
        how = {"scale": scale(case.config), "fan_in_fan_out": weight == "E"}
        changed[weight] = ops.merge(arrays[weight], arrays[A], arrays[B], **how)[0]
        changed[B] = arrays[B] * 0
    return changed


def _rank_one_updates(case: Case, arrays: Arrays) -> dict[str, np.ndarray]:
    """W + s sum_k B_k A_k, an outer product at a time."""
    W, A, B = arrays["W"], arrays["A"], arrays["B"]
    delta = sum(scale(case.config) * np.multiply.outer(B[:, k], A[k]) for k in range(A.shape[0]))
    return {"W_merged": W + (delta.T if case.config["fan_in_fan_out"] else delta), "W_unmerged": W}


def _train(case: Case, arrays: Arrays) -> dict[str, np.ndarray]:
    """The same steps with every gradient by the complex step."""

    def gradients(X: Array, Y: Array, W: Array, A: Array, B: Array, s: float) -> tuple[Array, Array, Array]:
        def loss(at: Arrays) -> Array:
            return train_steps.loss_and_pullback(X, Y, W, at["A"], at["B"], s)[0]

        at = {"A": A, "B": B}
        return loss(at), complex_step(loss, at, "A", 1.0), complex_step(loss, at, "B", 1.0)

    return train_steps.answer(arrays, case.config, gradients)


_POLYNOMIALS: dict[str, str] = {"lora_linear": "dropout", "lora_merge": "fan-in-fan-out", "lora_embedding": "padding-inside"}


def _prove(contract: str) -> CaseReport:
    raise NotImplementedError
