"""The package's own ops as a subject. An oracle that answers from its own pullbacks would agree with itself whatever
they say, so this subject answers by other roads:

* values with LoRA merged into the weights, where merging changes nothing;
* every gradient by the complex step, Im f(x + ih) / h, of the forward alone;
* and, for the contracts that are polynomials, a proof: the pullback on random 80-bit integers against the exact
  derivative, and the merged road against the unmerged one, with no rounding at all.
"""

from collections.abc import Callable, Mapping

import numpy as np

from ... import ops
from ...gradcheck import gradcheck
from ...gradcheck.exact import draw
from ..case import Case, widened
from ..check import CaseReport
from ..contracts import CONTRACTS, train_steps
from ..contracts._contract import Array, Config, Draw, inputs
from ..definition import RIGHT, Definition, scale
from ..judge import OutputVerdict
from . import Answer

_STEP = 1e-200

Arrays = Mapping[str, Array]


class SelfSubject:
    """The ops, answering for themselves."""

    name = "self"
    contracts = tuple(CONTRACTS)

    def ask(self, case: Case) -> Answer:
        arrays = widened(case)
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
    lora, dy = "alpha" in case.config, arrays.get("dy", 1.0)
    value, _ = forward(merged(arrays, scale(case.config)) if lora else arrays, case.config)
    outputs = {"y" if lora else "loss": value}
    for name in pullback.inputs:
        if name not in pullback.frozen:
            outputs[f"d{name}"] = complex_step(lambda changed: forward(changed, case.config)[0], arrays, name, dy)
    if case.config.get("padding_idx") is not None:
        outputs["dA"][:, case.config["padding_idx"]] = (
            0.0  # by convention, not the derivative: it is meant to stay as it is
        )
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


def merged(arrays: Arrays, s: Array) -> dict[str, Array]:
    """The same question with s B A moved from the factors into the weights. (Not where dropout parts the two paths.)"""
    changed = dict(arrays)
    for weight in [] if "mask" in arrays else [name for name in arrays if name[0] in "WE"]:
        n = weight[1:].lstrip("_")
        A, B = (f"{factor}_{n}" if n else factor for factor in "AB")
        changed[weight], _ = ops.merge(arrays[weight], arrays[A], arrays[B], scale=s, fan_in_fan_out=weight == "E")
        changed[B] = arrays[B] * 0
    return changed


def _rank_one_updates(case: Case, arrays: Arrays) -> dict[str, np.ndarray]:
    """W + s sum_k B_k A_k, an outer product at a time."""
    W, A, B = arrays["W"], arrays["A"], arrays["B"]
    delta = sum(scale(case.config) * np.multiply.outer(B[:, k], A[k]) for k in range(A.shape[0]))
    return {"W_merged": W + (delta.T if case.config["fan_in_fan_out"] else delta), "W_unmerged": W}


def _train(case: Case, arrays: Arrays) -> dict[str, np.ndarray]:
    """The same steps with every gradient by the complex step."""

    def gradients(
        at: Arrays, config: Config, d: Definition, trained: tuple[str, ...]
    ) -> tuple[Array, dict[str, Array]]:
        def loss(at: Arrays) -> Array:
            return train_steps.loss_and_pullback(at, config, d)[0]

        return loss(at), {name: complex_step(loss, at, name, 1.0) for name in trained}

    return train_steps.answer(arrays, case.config, RIGHT, gradients)


# The contracts whose op is a polynomial: the op, and the case whose shapes, ids and switches the integers take.
_POLYNOMIALS: dict[str, tuple[Callable[..., tuple[Array, ops.Pullback]], str, tuple[str, ...]]] = {
    "lora_linear": (ops.lora_linear, "dropout", ()),
    "lora_merge": (ops.merge, "fan-in-fan-out", ("fan_in_fan_out",)),
    "lora_embedding": (ops.lora_embedding, "repeated-ids", ("padding_idx",)),
}


def _prove(contract: str) -> CaseReport:
    """The pullback against the exact derivative, and the merged road against the unmerged one, over the integers."""
    op, name, switches = _POLYNOMIALS[contract]
    arrays, config = CONTRACTS[contract].draws[name](Draw("integers", "float64"))
    how = {switch: config[switch] for switch in switches}
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
    apart, together = (op(**a, scale=s, **how)[0] for a in (drawn, merged(drawn, s)))
    same = np.array_equal(apart, together)
    return OutputVerdict("pass" if same else "fail", 0.0 if same else None, 0.0, "" if same else "merged differs")
