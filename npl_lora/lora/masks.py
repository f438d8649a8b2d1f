"""Dropout masks, drawn from a generator that the caller passes.

A mask is 0 where an entry is dropped and 1/(1 - p) where it is kept. Its mean is 1, so evaluation needs no dropout at
all.

A generator keyed by (seed, step, layer) gives the same mask every time. So the backward, a second process or a resumed
run can draw the mask again, and nobody has to store it.

Source: Srivastava et al., "Dropout", JMLR 2014, section 10; Salmon et al., "Parallel Random Numbers: As Easy
as 1, 2, 3", 2011, for Philox.
"""

from typing import Any

import numpy as np

from ..ops.checks import check_integer, check_number, describe_type, floating_dtype


def check_dropout(p: Any) -> float:
    """p as a Python number, 0 <= p < 1. Raises TypeError and ValueError."""
    p = check_number("dropout", p)
    if isinstance(p, complex) or not 0 <= p < 1:
        raise ValueError(f"dropout is {p}, expected 0 <= dropout < 1")
    return p


def dropout_mask(
    shape: tuple[int, ...], dropout: float, rng: np.random.Generator, dtype: Any = np.float32
) -> np.ndarray:
    """A mask of this shape. Each entry, independently, is 0 with probability p = dropout, and 1/(1 - p) otherwise.

    The random numbers are float64 whatever the dtype, so the same entries are dropped in every precision.
    Raises TypeError for an rng that is not a Generator or a dtype that is not floating, and ValueError unless
    0 <= p < 1.
    """
    p = check_dropout(dropout)
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng is {describe_type(rng)}, expected a numpy.random.Generator")
    kept = rng.random(shape) >= p  # random() is in [0, 1): kept with probability 1 - p
    return kept.astype(floating_dtype(dtype)) * (1.0 / (1.0 - p))


def counter_rng(seed: int, step: int, layer: int) -> np.random.Generator:
    """The generator for one (seed, step, layer), each in 0 <= n < 2^64.

    Philox is a keyed permutation of a counter. Seed and layer are the key, and step is the highest word of the counter.
    So two different triples share no block of the stream: nothing is hashed, and nothing can collide.
    """
    words = dict(seed=seed, step=step, layer=layer)
    seed, step, layer = (check_integer(name, word, 0, 2**64) for name, word in words.items())
    key = np.array([seed, layer], dtype=np.uint64)
    counter = np.array([0, 0, 0, step], dtype=np.uint64)  # the lowest word first
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
