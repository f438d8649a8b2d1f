"""Outputs as sums of terms, for those where an implementation may lose a term or count it twice."""

import math
from dataclasses import dataclass

import numpy as np

from ..case import Case, widen
from ..contracts import CONTRACTS
from ..definition import scale
from .calls import record
from .inner_terms import terms_of


def terms(case: Case, output: str) -> dict[str, np.ndarray]:
    """{formula of a term: its value}; the right output is their sum. {} where no terms are known.

    The base term is the output at B = 0; the bias is what goes away without b. A gradient has a term for each token.
    """
    if output in CONTRACTS[case.contract].terms:
        return _base_and_low_rank(case, output)
    if case.contract == "lora_linear" and output in ("dA", "dB"):
        return _tokens(case, output)
    return {}


def known_factors(case: Case, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """{name: numbers that an output of this shape can be multiplied with}: inputs, and terms that the op computes.

    Those of one axis lie along the only axis of the output that is as long.
    """
    calls = record(case).get(case.contract, ())
    if not calls:
        return {}
    arguments = {n: t for n, t in calls[0].arguments.items() if isinstance(t, np.ndarray) and t.dtype.kind == "f"}
    computed = {formula: t for formula, (_, t) in terms_of(case.contract, calls[0].arguments).items()}
    along = {name: _along(t, shape) for name, t in {**arguments, **computed}.items()}
    return {name: t for name, t in along.items() if t is not None}


def _along(t: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    if t.shape == shape:
        return t
    axes = [axis for axis, n in enumerate(shape) if (n,) == t.shape]
    return np.moveaxis(t.reshape(-1, *[1] * (len(shape) - 1)), 0, axes[0]) if len(axes) == 1 else None


@dataclass(frozen=True)
class Span:
    """Rows that span a term, and the axis of the output along which they lie. what: their name."""

    what: str
    rows: np.ndarray
    axis: int


def low_rank_span(case: Case, output: str) -> Span | None:
    """What the low-rank term of an output is made of, whatever else goes into it; None where that is not known."""
    arrays = widen(case)
    of_B = lambda axis: Span("the columns of B", arrays["B"].reshape(len(arrays["B"]), -1).T, axis)  # noqa: E731
    if output == "y" and case.contract in ("lora_linear", "lora_embedding"):
        return of_B(-1)
    if output == "y" and case.contract == "lora_conv2d":
        return of_B(1)
    if output in ("W_merged", "W_unmerged") and case.contract == "lora_merge":
        return of_B(-1 if case.config["fan_in_fan_out"] else 0)
    if output == "dx" and case.contract == "lora_linear" and "mask" not in case:
        return Span("the rows of A", arrays["A"], -1)
    return None


def _answer(case: Case, output: str, **changed: np.ndarray | None) -> np.ndarray:
    arrays = {name: a for name, a in {**widen(case), **changed}.items() if a is not None}
    return np.asarray(CONTRACTS[case.contract].answer(arrays, case.config)[output])


def _base_and_low_rank(case: Case, output: str) -> dict[str, np.ndarray]:
    base, low = CONTRACTS[case.contract].terms[output]
    zero = np.zeros_like(widen(case)["B"])
    if output == "W_unmerged":
        merged, plain = _answer(case, "W_merged"), _answer(case, "W_merged", B=zero)
        return {base: plain, low: merged - plain}
    adapted, plain = _answer(case, output), _answer(case, output, B=zero)
    values = {base: plain, low: adapted - plain}
    if output == "y" and "b" in case:
        values[base] = _answer(case, output, B=zero, b=None)
        values["b"] = plain - values[base]
    return values


def _tokens(case: Case, output: str) -> dict[str, np.ndarray]:
    """s dy_n h_n^T for every token n; {} where there are too many tokens to tell their terms apart."""
    arrays = widen(case)
    x = arrays["x"] * arrays.get("mask", 1.0)
    x, dy = (t.reshape(-1, t.shape[-1]) for t in (x, arrays["dy"]))
    left, right = (dy @ arrays["B"], x) if output == "dA" else (dy, x @ arrays["A"].T)
    if not 1 < len(x) <= math.prod(arrays[output[1:]].shape) // 2:
        return {}
    s = scale(case.config)
    return {f"of token {n}": s * np.multiply.outer(left[n], right[n]) for n in range(len(x))}
