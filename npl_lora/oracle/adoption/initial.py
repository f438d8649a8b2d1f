"""What A starts from: its distribution, told from a large fresh layer."""

import math

import numpy as np

from .kinds import EMBEDDING, LINEAR
from .layer import Layer

_SIZES = (400, 300, 50)  # in, out, r: 20,000 numbers, and 1 / sqrt(in) far from 1 / r
Sizes = tuple[int, int, int]
_OTHERS = (900, 300, 20)  # where a number that is the same everywhere fits no longer
_BOTH = (_SIZES, _OTHERS)
_CLOSE = 0.05  # relative, of a spread: far more than 20,000 draws are off


def distribution_of(layer: Layer) -> str:
    """Either "kaiming_uniform", U(-1/sqrt(in), 1/sqrt(in)); "gaussian", N(0, 1/r^2); or "" for any other. Of an
    embedding, whose B is drawn: "normal", N(0, 1)."""
    if layer.kind is EMBEDDING:
        return "normal" if _kind_and_spread(layer)[0] == "normal" and _near(_kind_and_spread(layer)[1], 1.0) else ""
    return next((name for name in ("kaiming_uniform", "gaussian") if all(_is(name, layer, s) for s in _BOTH)), "")


def _is(name: str, layer: Layer, sizes: Sizes) -> bool:
    in_, _, rank = sizes
    kind, spread = _kind_and_spread(layer, sizes)
    if name == "gaussian":
        return kind == "normal" and _near(spread, 1 / rank)
    return kind == "uniform" and _near(spread, 1 / math.sqrt(in_))


def left_to_the_caller(layer: Layer) -> bool:
    """Whether A and B start as the framework leaves them: the class sets neither, so the caller has to."""
    unset = getattr(layer.framework, "unset", None)
    if unset is None or layer.constructor.has("A"):
        return False
    try:
        with unset():
            fresh = layer.build(layer.probe.but(bias=not layer.takes_no_bias))
    except Exception:  # a class that computes with what it made sets something
        return False
    return all(bool(np.isnan(layer.framework.read(fresh, held.path)).all()) for held in (layer.roles.A, layer.roles.B))


def describe_start(layer: Layer) -> str:
    """A sentence on what A starts from, if that is neither of PEFT's distributions."""
    if layer.kind is not LINEAR or distribution_of(layer):
        return ""
    _, _, rank = _SIZES
    kind, spread = _kind_and_spread(layer)
    if not math.isfinite(spread):
        return ""
    if spread == 0.0:
        return "A starts at zero, where PEFT has B at zero."
    if kind == "uniform" and _near(spread, 1 / math.sqrt(rank)):
        return "A starts uniform within +-1/sqrt(r), where PEFT has +-1/sqrt(in)."
    where = f"at in = {_SIZES[0]}, r = {rank}"
    if kind == "uniform":
        return f"A starts uniform within +-{spread:.1g} {where}, where PEFT has +-1/sqrt(in)."
    return f"A starts with a standard deviation of about {spread:.1g} {where}; PEFT's is uniform within +-1/sqrt(in)."


def _kind_and_spread(layer: Layer, sizes: Sizes = _SIZES) -> tuple[str, float]:
    """Either "uniform" and its bound, or "normal" and its standard deviation. Of many normal draws one is far out."""
    in_, out, rank = sizes
    if layer.constructor.square_only:
        out = in_
    fresh = layer.build(layer.probe.but(in_=in_, out=out, rank=rank, bias=not layer.takes_no_bias))
    A = layer.framework.read(fresh, (layer.roles.B if layer.kind is EMBEDDING else layer.roles.A).path)
    spread, largest = float(np.std(A)), float(np.max(np.abs(A)))
    return ("uniform", largest) if largest < 2.0 * spread else ("normal", spread)


def _near(spread: float, expected: float) -> bool:
    return abs(spread - expected) <= _CLOSE * expected
