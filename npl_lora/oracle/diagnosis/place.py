"""Where inside the formula a coarser format was used, where the errors prove that."""

from collections.abc import Sequence

import numpy as np

from ..case import Case, widen
from ..contracts import CONTRACTS
from ..faults.relevant import parts_used
from ..report import Observed
from ..tolerance.judge import right_answer
from . import coarse
from .compare import error_ratio
from .precision import SAME, Coarseness, largest, patterns, provable


def place_of(claim: Coarseness, failing: Sequence[Observed]) -> str:
    """ "the norm" or "the activation" where that alone explains the errors that were proved; else ""."""
    with_some = [one for one in failing if any(id == one.case.id for id, _ in claim.elements)]
    if with_some and all(_is_in_the_norm(one, claim) for one in with_some):
        return "the norm"
    return "the activation" if _is_in_the_activation(claim, with_some) else ""


def _is_in_the_activation(claim: Coarseness, with_some: Sequence[Observed]) -> bool:
    """Whether most outputs, in every case tried, have the pattern of one way to compute it, number by number."""
    if not with_some or "glu" not in parts_used(with_some[0].case.contract):
        return False
    ways = [way for way in coarse.WAYS if way.format is claim.format and way.truncate == claim.truncate]
    return any(all(_has_pattern(one, claim, way) for one in largest(with_some)) for way in ways)


def _has_pattern(one: Observed, claim: Coarseness, way: coarse.Way) -> bool:
    errors = {name: error for name, error in provable(one).items() if (one.case.id, name) in claim.elements}
    alike = patterns(one, errors, coarse.answer_with(one.case, "glu", way))
    return 2 * sum(likeness > SAME for likeness in alike.values()) > len(errors)


def _is_in_the_norm(one: Observed, claim: Coarseness) -> bool:
    """Whether all that DoRA answers is that of other norms n, which y shows: y - b = (m / n) o z."""
    y = (one.outputs or {}).get("y")
    if one.case.contract != "dora_linear" or y is None or (one.case.id, "y") not in claim.elements:
        return False
    n = _norms(one.case, y.astype(np.float64))
    predicted = right_answer(one.case.with_arrays({"n": n}), CONTRACTS["dora_linear"].answer)
    return all(error_ratio(predicted[name], got) <= 1.0 for name, got in (one.outputs or {}).items())


def _norms(case: Case, y: np.ndarray) -> np.ndarray:
    """The norms with which y comes out, by least squares over the tokens."""
    t = widen(case)
    m, b = t["m"], t.get("b", 0.0)
    of_m = np.asarray(CONTRACTS["dora_linear"].answer({**t, "n": m}, case.config)["y"])  # there y - b = z
    z, got = (a.reshape(-1, len(m)) for a in (of_m - b, y - b))
    with np.errstate(all="ignore"):
        return m * np.sum(z * z, axis=0) / np.sum(got * z, axis=0)
