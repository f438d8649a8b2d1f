"""lora_dropout: dropout on the low-rank path, drawn by the subject itself. An addition to protocol 1.

    layer "linear"       y = x W^T + s ((x o M) A^T) B^T
    layer "embedding"    y = E[ids] + s ((A^T)[ids] o M) B^T

M is 0 with probability p, else 1 / (1 - p), for each number by itself, and drawn anew in every training pass. Asked are
y and y_again, two training passes over the same input; y_eval, without dropout; and the gradients of <dy, y>, for which
M is the one that y was computed with.

The mask is read off the answer: the cases are such that x o M can be solved for, and a number of M counts as dropped
below a sixth of 1 / (1 - p). (Rounding to bfloat16 moves it by 0.04 of that; a scale that is wrong leaves it readable.)
Everything is then judged as ever, for the mask that was read. So there is nothing to allow for in the reading: dropout
in the wrong place, or scaled wrongly, gives answers that no mask explains.

Source: Hu et al. 2021; Srivastava et al., "Dropout", 2014, section 10.
"""

import math
from collections.abc import Mapping

import numpy as np

from ...ops import Pullback
from ...ops.namespace import rows
from ..case import Case, widen
from ..definition import RIGHT, Definition
from ..dtypes import dtype_by_name
from ..tolerance.judge import OutputVerdict, judge, right_answer
from ..tolerance.measured import tighten
from ..tolerance.statistics import dependence, pairs, tolerated
from ._dropout_places import masks_by_place
from .contract import Array, Config, Contract, Draw, lora

SHARED_MASK = "all tokens have the same mask"
SAME_MASK = "the mask is not drawn anew in every training pass"

_PASSES = {"y": "mask", "y_again": "mask_again", "y_eval": "mask_eval"}


def forward(arrays: Mapping[str, Array], config: Config, d: Definition, mask: Array | None) -> tuple[Array, Pullback]:
    names = ("x", "W", "A", "B") if config["layer"] == "linear" else ("ids", "E", "A", "B")
    op = d.lora_linear if config["layer"] == "linear" else d.lora_embedding
    return op(**{name: arrays[name] for name in names}, scale=d.scale(config), mask=mask)


def answer(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> dict[str, Array]:
    """arrays hold the masks of the passes besides: "mask", "mask_again", and "mask_eval", which a right answer has no
    use for."""
    y, pullback = forward(arrays, config, d, arrays["mask"])
    again, _ = forward(arrays, config, d, arrays["mask_again"])
    evaluated, _ = forward(arrays, config, d, None)
    grads = pullback(arrays["dy"])
    return {"y": y, "y_again": again, "y_eval": evaluated, **{f"d{name}": grad for name, grad in grads.items()}}


def settled(case: Case, outputs: Mapping[str, np.ndarray]) -> Case:
    """The case with the masks that the outputs show, and with those that they show if dropout is in the wrong place."""
    return _settled(case, outputs).with_arrays(masks_by_place(case, outputs))


def _settled(case: Case, outputs: Mapping[str, np.ndarray]) -> Case:
    """The case with the masks that the outputs show; 1 / (1 - p) everywhere for an output that shows none."""
    masks = {mask: _read(case, outputs.get(name)) for name, mask in _PASSES.items()}
    return case.with_arrays(masks)


def _read(case: Case, y: np.ndarray | None) -> np.ndarray:
    """Solve y - base = s (what is dropped o M) K for M, and tell 0 from 1 / (1 - p)."""
    t, config = widen(case), case.config
    if config["layer"] == "linear":
        dropped, base, K = t["x"], t["x"] @ t["W"].T, (t["B"] @ t["A"]).T
    else:
        dropped, base, K = t["A"].T[t["ids"]], t["E"][t["ids"]], t["B"].T
    kept = 1.0 / (1.0 - config["p"])
    if y is None or y.shape != base.shape or not np.all(np.isfinite(y)):
        return np.full(dropped.shape, kept).astype(dtype_by_name(case.dtype))
    mask = (y.astype(np.float64) - base) @ np.linalg.pinv(RIGHT.scale(config) * K) / dropped
    return np.where(mask > kept / 6.0, kept, 0.0).astype(dtype_by_name(case.dtype))


def judged(case: Case, outputs: Mapping[str, np.ndarray]) -> dict[str, OutputVerdict]:
    """Every output for the masks that were read; and the masks themselves."""
    known = _settled(case, outputs)
    verdicts = judge(tighten(known, right_answer(known, answer), answer), outputs)
    right = all(verdict.verdict == "pass" for verdict in verdicts.values())
    for name, note in ((right and _shared(known)) or _objections(known)).items():
        if verdicts[name].verdict == "pass":
            verdicts[name] = OutputVerdict("fail", None, None, note)
    return verdicts


def _shared(case: Case) -> dict[str, str]:
    """y and y_again, where both have one mask for all tokens."""
    masks = [rows(np.asarray(case[mask])) for name, mask in _PASSES.items() if name != "y_eval"]
    return dict.fromkeys(("y", "y_again"), SHARED_MASK) if all(np.all(m == m[0]) for m in masks) else {}


def _objections(case: Case) -> dict[str, str]:
    """output: what is wrong with the mask that it was computed with."""
    found, q = {}, 1.0 - case.config["p"]
    masks = {name: (np.asarray(case[mask]) != 0) - q for name, mask in _PASSES.items() if name != "y_eval"}
    width = max(q, 1.0 - q) ** 2 + q * (1.0 - q)  # of the interval that (m - q)(m' - q) is in
    for name, centred in masks.items():
        share = 1.0 - q - float(np.mean(centred))
        if abs(share - (1.0 - q)) > tolerated(centred.size):
            found[name] = f"a share of {share:.3g} is dropped, expected p = {1.0 - q:g}"
        for what, a, b in pairs(centred):
            off, bound = dependence(a, b, width)
            if off > bound:
                found.setdefault(name, f"{what} are not dropped independently")
    off, bound = dependence(masks["y"], masks["y_again"], width)
    if off > bound:
        found.setdefault("y_again", SAME_MASK)
    return found


def _factors(draw: Draw, out: int, in_: int, r: int, embedding: bool) -> dict[str, np.ndarray]:
    """A and B from which what went in can be solved for: no singular value far below the others."""
    wide = draw.widened()
    while True:
        A, B = wide.factors(out, in_, r)
        A = wide.away_from_zero(r, in_, std=1 / math.sqrt(r)) if embedding else A
        singular = np.linalg.svd(B if embedding else B @ A, compute_uv=False)
        if singular[-1] > singular[0] / 5.0:
            return {"A": draw.stored(A), "B": draw.stored(B)}


def _linear(draw: Draw, p: float, config: Config) -> tuple[dict[str, np.ndarray], Config]:
    arrays = {"x": draw.away_from_zero(12, 16, 6), "W": draw.normal(10, 6, std=0.25)}
    arrays |= _factors(draw, 10, 6, config["r"], embedding=False)
    return {**arrays, "dy": draw.normal(12, 16, 10)}, {**config, "layer": "linear", "p": p}


def _embedding(draw: Draw, p: float, config: Config) -> tuple[dict[str, np.ndarray], Config]:
    arrays = {"ids": draw.integers(11, 12, 16), "E": draw.normal(11, 9, std=0.5)}
    arrays |= _factors(draw, 9, 11, config["r"], embedding=True)
    return {**arrays, "dy": draw.normal(12, 16, 9)}, {**config, "layer": "embedding", "p": p}


CONTRACT = Contract(
    "lora_dropout",
    answer,
    {
        "linear": lambda draw: _linear(draw, 0.75, lora(8, 6)),
        "linear-rslora": lambda draw: _linear(draw, 0.5, lora(7, 2, use_rslora=True)),
        "embedding": lambda draw: _embedding(draw, 0.75, lora(6, 9)),
    },
    judge=judged,
    settle=settled,
)
