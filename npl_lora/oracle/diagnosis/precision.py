"""In which precision was it really computed? From the size of errors that look like rounding.

`rounding` says for every number what variance a right implementation's error has when every rounding is an independent
draw. If the errors of an output are those of rounding, but of coarser rounding, then error / standard deviation is the
same everywhere, and the unit roundoff is that many times the case's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..tolerance.rounding import PRECISIONS
from .wrong import Wrong

_ENOUGH = 8  # numbers, to judge their distribution by


@dataclass(frozen=True)
class Format:
    """A way to be coarse. Errors of `least` to `most` bits are its: a single coarse step among many fine ones leaves
    errors a few bits smaller than its own roundoff, and the deviation is an upper estimate."""

    least: float
    most: float
    says: str


FORMATS = (
    Format(23.0, 40.0, "a 24-bit significand: float32 somewhere inside"),
    Format(11.3, 20.0, "an 11-bit significand: float16 somewhere inside, or TF32 products"),
    Format(7.0, 11.3, "an 8-bit significand: bfloat16 somewhere inside"),
)


def coarser(observations: Sequence[Wrong]) -> str | None:
    """What the errors of one output of one dtype are like, when they are rounding of a coarser format; else None."""
    own = -float(np.log2(PRECISIONS[observations[0].case.dtype].store))
    lost = [size for one in observations if (size := _in_own_roundings(one)) is not None]
    if 2 * len(lost) < len(observations) or not lost:
        return None
    bits = own - float(np.log2(np.median(lost)))
    return next((f.says for f in FORMATS if f.least <= bits < f.most and f.most < own), None)


def _in_own_roundings(one: Wrong) -> float | None:
    """The root mean square of z = error / standard deviation; None where the error does not look like rounding.

    Rounding errors are everywhere, of about one size in units of their deviation, and do not follow the values.
    """
    deviation = one.right.deviation
    seen = (deviation > 0) & (one.right.size > 0)
    if np.count_nonzero(seen) < _ENOUGH:
        return None
    error = (one.got - one.right.value)[seen]
    z = np.abs(error / deviation[seen])
    rms = float(np.sqrt(np.mean(z * z)))
    if rms == 0 or np.max(z) > 8.0 * rms or np.mean(z < 0.02 * rms) > 0.5:
        return None
    value = one.right.value[seen]
    follows = abs(float(np.sum(error * value))) / float(np.linalg.norm(error) * np.linalg.norm(value))
    return rms if follows < 0.9 else None
