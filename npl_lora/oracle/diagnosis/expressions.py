"""A number as an expression of a case's configuration: 1/s, r, sqrt(r), the number of tokens, 1 - p ..."""

import math
from collections.abc import Sequence

import numpy as np

from ..case import Case
from ..definition import scale


def name_of(numbers: Sequence[tuple[Case, float, float]]) -> str | None:
    """The simplest expression that equals every number within its error, each in its own case; None if there is none.

    numbers: (case, number, the error it may have). A number that is the same everywhere is an expression only if it is
    -1, 2, 1/2 or 0: others would be coincidences.
    """
    per_case = [_expressions(case) for case, _, _ in numbers]
    for expression in per_case[0]:
        fits = all(
            expression in known and abs(number - known[expression]) <= error + 1e-9 * abs(number)
            for known, (_, number, error) in zip(per_case, numbers, strict=True)
        )
        if fits:
            return expression
    return None


def _expressions(case: Case) -> dict[str, float]:
    """Simplest first."""
    known = {"0": 0.0, "-1": -1.0, "2": 2.0, "1/2": 0.5}
    config = case.config
    if isinstance(config.get("r"), int):
        s, r, alpha = scale(config), config["r"], config["alpha"]
        known |= {"1/s": 1 / s, "s": s, "r": r, "1/r": 1 / r, "sqrt(r)": math.sqrt(r), "1/sqrt(r)": 1 / math.sqrt(r)}
        known |= {"alpha": alpha, "1/alpha": 1 / alpha, "s^2": s * s, "-s": -s, "-1/s": -1 / s}
        known |= {"1/s^2": 1 / (s * s)} if s * s else {}  # a tiny s has no square
    if tokens := _tokens(case):
        known |= {"N": tokens, "1/N": 1 / tokens}
    if "mask" in case and np.any(case["mask"] > 1):
        kept = 1.0 / float(np.max(case["mask"]))
        known |= {"1 - p": kept, "1/(1 - p)": 1 / kept}
    if K := config.get("accumulation"):
        known |= {"K": K, "1/K": 1 / K}
    if heads := config.get("n_heads"):
        D, G = case["Wq"].shape[0] // heads, config["n_kv_heads"]
        known |= {"sqrt(D)": D**0.5, "1/sqrt(D)": D**-0.5, "H": heads, "1/H": 1 / heads}
        known |= {"H/G": heads / G, "G/H": G / heads}
    return known


def _tokens(case: Case) -> int:
    return math.prod(case["dy"].shape[:-1]) if "dy" in case else 0


LEGEND = {
    "s": "s = alpha / r",
    "N": "N the number of tokens",
    "p": "p the dropout probability",
    "K": "K the number of micro-batches",
    "D": "D the head size",
}
