"""Drawing the numbers of a case: any numbers, or whole ones for exact cases."""

import copy
import math
import zlib

import numpy as np

from ..dtypes import dtype_by_name
from ..tolerance.rounding import PRECISIONS, round_to

_LEAST = 0.8  # the standard deviation of whole numbers below which most would be 0


class Draw:
    """Arrays for one case, drawn in float64 and rounded once to the case's dtype.

    Every case has its own stream, keyed by its name: adding one does not change the others. Every dtype draws the same
    numbers, so a fault shows in the same place in each. They are the same on every machine, bit by bit, and with every
    version of NumPy: whole numbers from the raw stream of PCG64, whose words are fixed where NumPy's distributions are
    not, and from there on nothing but arithmetic and roots, which IEEE 754 rounds correctly.
    """

    def __init__(self, name: str, dtype: str) -> None:
        self._stream = np.random.PCG64(zlib.crc32(name.encode()))
        self._precision = PRECISIONS[dtype]
        self.dtype = dtype_by_name(dtype)

    def widened(self) -> "Draw":
        """The same stream in float64: for drawing until something holds, the same numbers in every dtype."""
        wide = copy.copy(self)
        wide._precision, wide.dtype = PRECISIONS["float64"], np.dtype(np.float64)
        return wide

    def stored(self, numbers: np.ndarray) -> np.ndarray:
        """float64 rounded to the case's dtype, ties to even: exactly, and not by way of a third dtype."""
        return np.asarray(round_to(numbers, self._precision), dtype=np.float64).astype(self.dtype)

    def integers(self, n: int, *shape: int) -> np.ndarray:
        """int64 in 0 ... n - 1. (Of 2^64 words, as many more than n - 1 leave 0 as leave n - 1: nobody can tell.)"""
        return (self._words(*shape) % np.uint64(n)).astype(np.int64)

    def normal(self, *shape: int, std: float = 1.0) -> np.ndarray:
        """Nearly normal numbers, none beyond 3 standard deviations: no case may overflow float16."""
        return self.stored(std * self.standard(*shape))

    def factors(self, out: int, in_: int, r: int) -> tuple[np.ndarray, np.ndarray]:
        """A (r, in) and B (out, r), both of them non-zero, with s B A about as large as a weight for s about 1."""
        return self.normal(r, in_, std=1.0 / math.sqrt(in_)), self.normal(out, r, std=1.0 / math.sqrt(r))

    def weight(self, out: int, in_: int) -> np.ndarray:
        """A weight (out, in) that keeps the size of what it is applied to."""
        return self.normal(out, in_, std=1.0 / math.sqrt(in_))

    def away_from_zero(self, *shape: int, std: float = 1.0) -> np.ndarray:
        """Of both signs and at least half of std: what is multiplied with these can be told again."""
        size = std * (0.5 + np.minimum(np.abs(self.standard(*shape)), 2.0))
        return self.stored(np.where(self.integers(2, *shape) == 0, -size, size))

    def magnitudes(self, n: int) -> np.ndarray:
        """Lengths of rows: positive, and far from those of a weight and its update, which are about sqrt(2)."""
        return self.stored(2.0 + 0.25 * self.standard(n))

    def dropout_mask(self, *shape: int, p: float) -> np.ndarray:
        """0 with probability p, else 1 / (1 - p). p is a power of two's complement, so the mask is exact."""
        uniform = (self._words(*shape) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return self.stored((uniform >= p) / (1.0 - p))

    def _words(self, *shape: int) -> np.ndarray:
        return self._stream.random_raw(math.prod(shape)).reshape(shape)

    def standard(self, *shape: int) -> np.ndarray:
        """The sum of three numbers uniform in +-1: mean 0, variance 3 * 1/3 = 1, and exact in float64.

        Each is a whole number of 50 bits, k / 2^49 - 1, so that the sum has its last bits, too: a case whose numbers
        were exact in a narrower dtype could not tell who computes in that.
        """
        k = (self._words(3, *shape) >> np.uint64(14)).astype(np.int64)
        return (np.sum(k, axis=0) - 3 * 2**49) * 2.0**-49


class WholeNumbers(Draw):
    """The same draws in whole numbers, for exact cases. They differ between dtypes: wider ones hold larger numbers."""

    def __init__(self, name: str, dtype: str) -> None:
        super().__init__(name, dtype)
        self.std = PRECISIONS[dtype].store ** (-1 / 2)  # products of two have about as many digits as there are

    def normal(self, *shape: int, std: float = 1.0) -> np.ndarray:
        """Normal numbers, rounded to whole ones of which more than half are not 0, and some of each row. std is left to
        shrink()."""
        while True:
            whole = np.rint(self.std * self.standard(*shape)) + 0.0  # no -0
            whole = np.sign(whole) if self.std == _LEAST else whole
            if 2 * np.count_nonzero(whole) > whole.size and whole.any(axis=-1).all():
                return whole.astype(self.dtype)

    def shrink(self, excess: float) -> None:
        """Smaller numbers, after some whose largest sum is too large by this factor.

        By less than the products have factors, so that little is given away, and at most by half, also where excess is
        inf or NaN. From _LEAST on only signs are drawn, and other ones each time.
        """
        self.std = max(_LEAST, self.std * max(0.5, excess ** (-1 / 8)))
