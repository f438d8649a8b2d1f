"""The catalogue of faults: real ones, seen in public issue threads and sources, as small wrong variants of the
definition.

A fault is one short entry (see `_fault`), in the file of its kind. To add one: write it, and the tests will inject it
into every contract that it shows in, see that it fails, and see that the diagnosis names it.
"""

from . import (
    attention,
    backwards,
    combining,
    convolution,
    dora,
    dropout,
    embedding,
    initialisation,
    layout,
    loss,
    merging,
    scaling,
    training,
)
from .fault import Fault, wrong_answer

_KINDS = (scaling, layout, initialisation, dropout, merging, combining, dora, convolution, embedding, backwards)
FAULTS: tuple[Fault, ...] = tuple(fault for kind in (*_KINDS, attention, loss, training) for fault in kind.FAULTS)

__all__ = ["FAULTS", "Fault", "wrong_answer"]
