"""The precision that an output was really computed in, estimated from errors that look like rounding.

For every number, `rounding` derives the variance of a right implementation's error, with every rounding an independent
draw. If an output's errors come from coarser rounding, error / standard deviation is the same everywhere. That ratio is
the unit roundoff in units of the case's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..tolerance.rounding import PRECISIONS
from .wrong import Wrong

_ENOUGH = 8  # numbers, to judge their distribution by


@dataclass(frozen=True)
class Format:
    """A coarser format, recognised by errors of `least` to `most` bits.

    One coarse step among many fine ones leaves errors a few bits smaller than its own roundoff, and the standard
    deviation is an upper estimate. So a format covers a range of bits.
    """

    least: float
    most: float
    says: str


FORMATS = (
    Format(23.0, 40.0, "a 24-bit significand: float32 somewhere inside"),
    Format(11.3, 20.0, "an 11-bit significand: float16 somewhere inside, or TF32 products"),
    Format(7.0, 11.3, "an 8-bit significand: bfloat16 somewhere inside"),
)


def coarser(observations: Sequence[Wrong]) -> str | None:
    """The format whose rounding the errors of one output look like, if they do and it is coarser than the dtype."""
    own = -float(np.log2(PRECISIONS[observations[0].case.dtype].store))
    sizes = [size for one in observations if (size := _in_own_roundings(one)) is not None]
    if 2 * len(sizes) < len(observations) or not sizes:
        return None
    bits = own - float(np.log2(np.median(sizes)))
    return next((f.says for f in FORMATS if f.least <= bits < f.most and f.most < own), None)


def _in_own_roundings(one: Wrong) -> float | None:
    """The root mean square of z = error / standard deviation; None where the error does not look like rounding.

    Rounding errors are everywhere, of about one size in units of their deviation, and do not follow the values.
    """
    deviation = one.right.deviation
    usable = (deviation > 0) & (one.right.size > 0)
    if np.count_nonzero(usable) < _ENOUGH:
        return None
    error = (one.got - one.right.value)[usable]
    z = np.abs(error / deviation[usable])
    rms = float(np.sqrt(np.mean(z * z)))
    if rms == 0 or np.max(z) > 8.0 * rms or np.mean(z < 0.02 * rms) > 0.5:
        return None
    value = one.right.value[usable]
    follows = abs(float(np.sum(error * value))) / float(np.linalg.norm(error) * np.linalg.norm(value))
    return rms if follows < 0.9 else None
