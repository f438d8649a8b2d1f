"""Where dropout can act by mistake in a layer with LoRA, and which mask an answer shows for each of these places.

    output      y = (x W^T + s (x A^T) B^T) o M                 the sum of both paths
    input       y = (x o M) W^T + s ((x o M) A^T) B^T           the input of both paths
    rank        y = x W^T + s ((x A^T) o M) B^T                 between A and B; in an embedding that is the right place
    low_rank    y = x W^T + (s (x A^T) B^T) o M                 the output of the low-rank path

In all of them y - c = sum_i M_i e_i for each token, with a known c and known vectors
e_i, and the same holds of dx. So all 2^n masks of a token are tried, and the one that comes nearest to y and dx
together is taken: where an e_i of y is lost in rounding, that of dx is not. An embedding has no dx; there dB helps.
For "output", what is not 0 in y is kept in any case.
"""

from collections.abc import Mapping

import numpy as np

from ...ops.namespace import rows
from ..case import Case, widen
from ..definition import RIGHT
from ..dtypes import dtype_by_name
from ..tolerance.rounding import PRECISIONS

_PLACES = {"linear": ("output", "input", "rank", "low_rank"), "embedding": ("output", "low_rank")}

_Term = tuple[np.ndarray, np.ndarray]  # what is known of y or dx, and the effects e_i (..., n, width)

_MOST = 10  # numbers of a mask that are tried together


def masks_by_place(case: Case, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{"rank_mask": M of y, "rank_mask_again": M of y_again} and so on for every place that the layer has.

    Without a usable output, all numbers are kept.
    """
    of_y = {name: t.astype(np.float64) for name, t in outputs.items() if np.isfinite(t).all()}
    of_again = {"y": of_y["y_again"]} if "y_again" in of_y else {}  # the gradients are those of y
    return {
        name + again: _mask(place, case, shown).astype(dtype_by_name(case.dtype))
        for place in _PLACES[case.config["layer"]]
        for name, again, shown in ((f"{place}_mask", "", of_y), (f"{place}_mask", "_again", of_again))
    }


def _mask(place: str, case: Case, shown: Mapping[str, np.ndarray]) -> np.ndarray:
    t, kept = widen(case), 1.0 / (1.0 - case.config["p"])
    terms = _terms(place, case)
    usable = [(shown[n] - c, e) for n, (c, e) in terms.items() if n in shown and shown[n].shape == c.shape]
    if "y" not in shown or shown["y"].shape != terms["y"][0].shape:
        return np.full(terms["y"][1].shape[:-1], kept)
    mask = _nearest(usable, kept)
    if place == "output":
        return np.where(shown["y"] != 0, kept, mask)
    return _with_dB(mask, case, shown, kept) if "ids" in t and "dB" in shown else mask


def _terms(place: str, case: Case) -> dict[str, _Term]:
    """What of y and of dx no mask changes, and the effects that the numbers of the mask have beside it."""
    t, s = widen(case), RIGHT.scale(case.config)
    B, dy = t["B"], t["dy"]
    if "ids" in t:
        base, low = t["E"][t["ids"]], s * t["A"].T[t["ids"]] @ B.T
        return {"y": (0.0 * base, _diagonal(base + low)) if place == "output" else (base, _diagonal(low))}
    x, W, A, delta = t["x"], t["W"], t["A"], s * B @ t["A"]
    base, dbase, V = x @ W.T, dy @ W, W + delta
    if place == "output":
        return {"y": (0.0 * base, _diagonal(x @ V.T)), "dx": (0.0 * dbase, dy[..., None] * V)}
    if place == "input":
        return {"y": (0.0 * base, x[..., None] * V.T), "dx": (0.0 * dbase, _diagonal(dy @ V))}
    if place == "rank":
        return {"y": (base, s * (x @ A.T)[..., None] * B.T), "dx": (dbase, s * (dy @ B)[..., None] * A)}
    return {"y": (base, _diagonal(x @ delta.T)), "dx": (dbase, dy[..., None] * delta)}


def _diagonal(t: np.ndarray) -> np.ndarray:
    """(..., n) -> (..., n, n): each number alone in a row."""
    return t[..., None] * np.eye(t.shape[-1])


def _nearest(terms: list[_Term], kept: float) -> np.ndarray:
    """The mask (..., n) of 0 and kept whose effects come nearest to the targets (..., width)."""
    target, effect = (np.concatenate(side, axis=-1) for side in zip(*terms, strict=True))
    n = effect.shape[-2]
    every = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    with np.errstate(over="ignore"):  # an answer may be as large as it likes
        distance = np.sum(np.square(target[..., None, :] - kept * every @ effect), axis=-1)
    return kept * every[np.argmin(distance, axis=-1)]


def _with_dB(mask: np.ndarray, case: Case, shown: Mapping[str, np.ndarray], kept: float) -> np.ndarray:
    """The mask "low_rank" of an embedding; y and dB together tell the numbers whose e_i y alone hardly shows.

    Row o of dB is s sum_n M_no dy_no h_n.
    """
    t, s, u = widen(case), RIGHT.scale(case.config), 8.0 * PRECISIONS[case.dtype].store
    if shown["dB"].shape != t["B"].shape or not shown["dB"].any():
        return mask
    h, M, dy, base = (rows(a) for a in (t["A"].T[t["ids"]], mask, t["dy"], t["E"][t["ids"]]))
    M, low, y = M.copy(), s * h @ t["B"].T, rows(shown["y"]) - base
    allowed = u * (np.abs(base) + np.abs(kept * low))
    for o in range(M.shape[1]):
        at, effect = np.flatnonzero(np.abs(kept * low[:, o]) < 2.0 * allowed[:, o])[:_MOST], s * dy[:, o, None] * h
        if at.size:
            M[at, o] = 0.0
            scale = u * np.max(np.abs(shown["dB"]))
            of_dB = (shown["dB"][o] - M[:, o] @ effect) / scale, effect[at] / scale
            of_y = y[at, o] / allowed[at, o], np.diag(low[at, o] / allowed[at, o])
            M[at, o] = _nearest([of_dB, of_y], kept)
    return M.reshape(mask.shape)
