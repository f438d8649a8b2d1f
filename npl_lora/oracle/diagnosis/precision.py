"""In which precision was it really computed? From the size of errors that look like rounding.

`rounding` says for every number what variance a right implementation's error has when every rounding is an independent
draw. If the errors of an output are those of rounding, but of coarser rounding, then error / standard deviation is the
same everywhere, and the unit roundoff is that many times the case's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..rounding import PRECISIONS
from .fit import Wrong

_ENOUGH = 16  # numbers, to judge their distribution by


@dataclass(frozen=True)
class Format:
    """A way to be coarse: its unit roundoff is 2^-bits."""

    bits: int
    says: str


FORMATS = (
    Format(24, "a 24-bit significand: float32 somewhere inside"),
    Format(11, "an 11-bit significand: float16 somewhere inside, or TF32 products"),
    Format(8, "an 8-bit significand: bfloat16 somewhere inside"),
)


def coarser(observations: Sequence[Wrong]) -> str | None:
    """A sentence when the errors of these outputs of one dtype are those of a coarser format, else None."""
    dtype = observations[0].case.dtype
    sizes = [size for one in observations if one.got.size >= _ENOUGH for size in [_in_own_roundings(one)]]
    if not sizes or any(size is None for size in sizes):
        return None
    lost = np.log2(np.asarray(sizes, dtype=np.float64))
    own = -float(np.log2(PRECISIONS[dtype].store))
    bits = own - float(np.median(lost))
    for format in FORMATS:
        if format.bits < own and abs(bits - format.bits) <= 1.5 and np.ptp(lost) <= 4.0:
            return f"{dtype} in and out, but the errors are those of {format.says}"
    return None


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
    if rms == 0 or np.max(z) > 8.0 * rms or np.mean(z < 0.02 * rms) > 0.2:
        return None
    value = one.right.value[seen]
    follows = abs(float(np.sum(error * value))) / float(np.linalg.norm(error) * np.linalg.norm(value))
    return rms if follows < 0.5 else None
