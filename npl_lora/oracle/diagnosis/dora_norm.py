"""DoRA with other norms than those of the rows of V = W + s B A: one number a row, in the value and in all gradients.

With n' for n, y - b and dm are n / n' times the right ones, row by row, and dx, dA and dB are those of m n / n'. So the
norms can be read from y, and tell what the gradients must be.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ...support.array import Array
from ..case import Case, widen
from ..contracts import CONTRACTS
from ..definition import Config, scale
from ..report import Claim, Observed
from ..tolerance.judge import Right, format_factor
from ..tolerance.rounding import PRECISIONS
from .compare import changes, predict, quick_distance

_GRADIENTS = 2  # of which at least so many must agree with y
_SHOWN = 6  # numbers in the sentence

NORMS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "|W| + |s B A|": lambda W, L: _norm(W) + _norm(L),
    "sqrt(|W|^2 + |s B A|^2)": lambda W, L: np.sqrt(_norm(W) ** 2 + _norm(L) ** 2),
    "|s B A|": lambda W, L: _norm(L),
    "the sum of |V|, the 1-norm": lambda W, L: np.sum(np.abs(W + L), axis=1),
    "the largest of |V|": lambda W, L: np.max(np.abs(W + L), axis=1),
    "|V|^2, without the root": lambda W, L: _norm(W + L) ** 2,
    "the root of the mean of V^2": lambda W, L: _norm(W + L) / np.sqrt(W.shape[1]),
    "the norm of all of V": lambda W, L: np.full(len(W), np.linalg.norm(W + L)),
}


def _norm(V: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(V, axis=1))


def other_norms(failing: Sequence[Observed]) -> Claim | None:
    """The claim that explains all that is wrong in dora_linear, if other norms do."""
    if failing[0].case.contract != "dora_linear":
        return None
    finest = min(PRECISIONS[one.case.dtype].store for one in failing)
    read = []
    for one in (one for one in failing if PRECISIONS[one.case.dtype].store == finest):
        norms = _read(one)
        if norms is None or not _explains(one, norms):
            return None
        read.append((one.case, norms))
    outputs = tuple(dict.fromkeys(name for one in failing for name in one.failed))
    return Claim((), outputs, _sentence(read, 64.0 * finest))


def _factors(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """W and s B A."""
    arrays = widen(case)
    return arrays["W"], scale(case.config) * arrays["B"] @ arrays["A"]


def _read(one: Observed) -> np.ndarray | None:
    """The norms that y was divided by, in units of the right ones; None where y does not tell."""
    y, right = (one.outputs or {}).get("y"), one.right["y"]
    if (
        y is None
        or not isinstance(right, Right)
        or y.shape != right.shape
        or y.dtype.kind != "f"
        or not np.isfinite(y).all()
    ):
        return None
    b = widen(one.case).get("b", 0.0)
    got, expected = (t.reshape(-1, t.shape[-1]) for t in (y.astype(np.float64) - b, right.value - b))
    energy, along = np.sum(expected * expected, axis=0), np.sum(expected * got, axis=0)
    return energy / along if np.all(energy > 0) and np.all(along > 0) else None


def _explains(one: Observed, norms: np.ndarray) -> bool:
    """Whether the answer with these norms is what came back, in y and in enough gradients."""
    right = CONTRACTS[one.case.contract].answer

    def answer(arrays: Mapping[str, Array], config: Config) -> dict[str, Array]:
        outputs = right({**arrays, "m": arrays["m"] / norms}, config)
        return {**outputs, "dm": outputs["dm"] / norms}

    predicted = predict(answer, one)
    shown = {name for name in one.failed if name in predicted and changes(predicted[name], one.bar(name))}
    return (
        shown == set(one.failed)
        and len(shown) > _GRADIENTS
        and all(quick_distance(predicted[name], one, name) < 1.0 for name in shown)
    )


def _sentence(read: Sequence[tuple[Case, np.ndarray]], rtol: float) -> str:
    """rtol: how much the norms may be off that were read from rounded numbers."""
    for says, norm in NORMS.items():
        factors = [(*_factors(case), norms) for case, norms in read]
        if all(np.allclose(norm(W, L), norms * _norm(W + L), rtol=rtol, atol=0.0) for W, L, norms in factors):
            return f"every output: as if n, the norm of the rows of V = W + s B A, were {says}."
    case, norms = read[0]
    numbers = ", ".join(format_factor(c) for c in norms[:_SHOWN])
    return (
        "every output: as if n, the norm of the rows of V = W + s B A, were other numbers "
        f"({numbers} ... times as large in {case.id})."
    )
