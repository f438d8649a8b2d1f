"""adapter_combine with another combination: other weights, another truncation, or other singular values.

Each is a formula for delta, a claim only if it gives every wrong delta, and the right one where that came back. If none
does, f is read off delta = U f(S) V^T, with the U and V of what should have been truncated.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..case import widen
from ..contracts.contract import scales
from ..definition import RIGHT
from ..report import Claim, Observed
from ..tolerance.judge import Right, format_factor
from ..tolerance.rounding import PRECISIONS
from .compare import changes, is_nearer, quick_distance

_ZERO = 1e-9  # of the largest singular value: what is below is zero, since all are drawn in float64
_SHOWN = 4  # numbers in the sentence


@dataclass(frozen=True)
class _Question:
    """The adapters of a case: w_i, s_i B_i A_i, and how they are combined."""

    weights: np.ndarray
    terms: list[np.ndarray]
    ranks: list[int]
    alphas: list[float]
    r_new: int | None  # None for "cat"
    factors: list[tuple[np.ndarray, np.ndarray]]  # s_i B_i and A_i

    def of(self, weights: np.ndarray) -> np.ndarray:
        return np.asarray(sum(w * t for w, t in zip(weights, self.terms, strict=True)))

    def weighted(self) -> list[np.ndarray]:
        return [w * t for w, t in zip(self.weights, self.terms, strict=True)]


def _question(one: Observed) -> _Question:
    arrays, config = widen(one.case), one.case.config
    factors = [(s * arrays[f"B_{i}"], arrays[f"A_{i}"]) for i, s in enumerate(scales(config, RIGHT), start=1)]
    return _Question(
        np.asarray(config["weights"], dtype=np.float64),
        [B @ A for B, A in factors],
        config["r"],
        config["alpha"],
        config["r_new"] if config["combination"] == "svd" else None,
        factors,
    )


def _svd(t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """U, S and V^T, without the singular values that are zero."""
    U, S, Vt = np.linalg.svd(t, full_matrices=False)
    k = int(np.sum(_ZERO * S[0] < S)) if S.size else 0
    return U[:, :k], S[:k], Vt[:k]


def _kept(t: np.ndarray, first: int, last: int, power: float = 1.0) -> np.ndarray:
    U, S, Vt = _svd(t)
    return (U[:, first:last] * S[first:last] ** power) @ Vt[first:last]


def _truncated(q: _Question, delta: np.ndarray, rank: int | None = None) -> np.ndarray:
    return delta if q.r_new is None else _kept(delta, 0, q.r_new if rank is None else rank)


def _with_weights(change: Callable[[np.ndarray], np.ndarray]) -> "Combination":
    return lambda q: _truncated(q, q.of(change(q.weights)))


def _of_svd(change: Callable[[_Question, np.ndarray, int], np.ndarray]) -> "Combination":
    return lambda q: q.of(q.weights) if q.r_new is None else change(q, q.of(q.weights), q.r_new)


def _smallest(q: _Question, t: np.ndarray, r: int) -> np.ndarray:
    k = _svd(t)[1].size
    return _kept(t, k - r, k)


def _averaged(q: _Question) -> np.ndarray:
    """(the mean of w_i s_i B_i)(the mean of A_i), where the ranks are the same."""
    if len(set(q.ranks)) > 1:
        return _truncated(q, q.of(q.weights))
    B = np.mean([w * B for w, (B, _) in zip(q.weights, q.factors, strict=True)], axis=0)
    return _truncated(q, B @ np.mean([A for _, A in q.factors], axis=0))


Combination = Callable[[_Question], np.ndarray]
COMBINATIONS: Mapping[str, Combination] = {
    "the weights were divided by their sum": _with_weights(lambda w: w / np.sum(w)),
    "the weights were divided by the sum of their absolute values": _with_weights(lambda w: w / np.sum(np.abs(w))),
    "the weights went through a softmax": _with_weights(lambda w: np.exp(w) / np.sum(np.exp(w))),
    "delta were a mean over the adapters, not their sum": _with_weights(lambda w: w / w.size),
    "the weights were the roots of their absolute values, with their signs": _with_weights(
        lambda w: np.sign(w) * np.sqrt(np.abs(w))
    ),
    "the weights were clipped at 0": _with_weights(lambda w: np.maximum(w, 0.0)),
    "the factors were averaged before they are multiplied": _averaged,
    "the roots of the singular values were kept in their place, as when one factor lacks them": _of_svd(
        lambda q, t, r: _kept(t, 0, r, 0.5)
    ),
    "the singular values were squared, as when both factors have them": _of_svd(lambda q, t, r: _kept(t, 0, r, 2.0)),
    "the singular values were left out: delta is U V^T": _of_svd(lambda q, t, r: _kept(t, 0, r, 0.0)),
    "the smallest singular values were kept, of those that are not 0": _of_svd(_smallest),
    "r_new - 1 singular values were kept, not r_new": _of_svd(lambda q, t, r: _kept(t, 0, r - 1)),
    "r_new + 1 singular values were kept, not r_new": _of_svd(lambda q, t, r: _kept(t, 0, r + 1)),
    "the svd kept as many singular values as the largest rank of an adapter, not r_new": _of_svd(
        lambda q, t, r: _kept(t, 0, max(q.ranks))
    ),
    "nothing were truncated: the svd kept the whole sum": _of_svd(lambda q, t, r: t),
    "each adapter were truncated to r_new, and then summed": _of_svd(
        lambda q, t, r: np.asarray(sum(_kept(each, 0, r) for each in q.weighted()))
    ),
    "each adapter were truncated to r_new, summed and truncated again": _of_svd(
        lambda q, t, r: _kept(np.asarray(sum(_kept(each, 0, r) for each in q.weighted())), 0, r)
    ),
    "the svd were that of the first adapter alone": _of_svd(lambda q, t, r: _kept(q.weighted()[0], 0, r)),
    "the first adapter were truncated to r_new, and the others added as they are": _of_svd(
        lambda q, t, r: np.asarray(sum(q.weighted()[1:], _kept(q.weighted()[0], 0, r)))
    ),
}


def another_combination(answered: Sequence[Observed]) -> Claim | None:
    """The claim that explains every wrong delta of adapter_combine, if another combination does."""
    if answered[0].case.contract != "adapter_combine":
        return None
    questions = [(one, _question(one)) for one in answered]
    found = [says for says, formula in COMBINATIONS.items() if all(_is_met(one, formula(q)) for one, q in questions)]
    if found:
        return Claim((), ("delta",), f"delta: as if {' (or: '.join(found)}{')' * (len(found) - 1)}.")
    return _other_singular_values([(one, q) for one, q in questions if one.failed])


def _is_met(one: Observed, predicted: np.ndarray) -> bool:
    """Whether this is what came back, and is wrong where that is wrong."""
    right, got = one.right["delta"], (one.outputs or {}).get("delta")
    if not isinstance(right, Right) or got is None or not _is_finite(got) or not np.isfinite(predicted).all():
        return False
    is_wrong = changes(predicted, one.bar("delta"))
    if not one.failed:
        return not is_wrong
    near = is_wrong and quick_distance(predicted, one, "delta") < 1.0
    return near and is_nearer(got.astype(np.float64), predicted, right.value)


def _is_finite(got: np.ndarray) -> bool:
    return got.dtype.kind == "f" and bool(np.isfinite(got.astype(np.float64)).all())


def _other_singular_values(failing: Sequence[tuple[Observed, _Question]]) -> Claim | None:
    """What is in the place of the singular values, where U and V are right."""
    finest = min(PRECISIONS[one.case.dtype].store for one, _ in failing)
    read = []
    for one, q in failing:
        got = (one.outputs or {}).get("delta")
        if q.r_new is None or got is None or got.shape != one.right["delta"].shape or not _is_finite(got):
            return None
        if PRECISIONS[one.case.dtype].store > finest:
            continue
        U, S, Vt = _svd(q.of(q.weights))
        f = np.einsum("ok,oi,ki->k", U, got.astype(np.float64), Vt)
        if not _is_met(one, (U * f) @ Vt):
            return None
        read.append((one.case.id, S, np.where(np.abs(f) > _ZERO * S[0], f, 0.0)))
    if not any(np.any(f) for _, _, f in read):
        says = "delta: it is 0 within rounding wherever it is an svd, as when the smallest singular values are kept."
        return Claim((), ("delta",), says)
    case, S, f = read[0]
    values, right = (", ".join(format_factor(float(c)) for c in t[:_SHOWN]) for t in (f, S))
    says = f"delta: U and V of the svd are right, and the singular values are not: ({values} ...) for ({right} ...)"
    return Claim((), ("delta",), f"{says} in {case}.")
