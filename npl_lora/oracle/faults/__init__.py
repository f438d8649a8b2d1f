"""The catalogue of faults: mistakes seen in public issues and sources, as small wrong variants of the definition.

FAULTS.md lists them all. A fault is one short entry (fault.py), built from wraps (wraps.py). kinds.py says what the
letters of the ids stand for. To add one, write an entry in the file where it fits. The tests put it into every contract
where it can show, and check that it fails and that the diagnosis names it.
"""

from . import (
    attention,
    backwards,
    combining,
    convolution,
    dora,
    dropout,
    dropout_values,
    embedding,
    extreme_logits,
    heads,
    initialisation,
    kernels,
    layout,
    loss,
    merging,
    norms,
    optimisers,
    rope,
    scaling,
    serving,
    training,
    use,
)
from .fault import Fault, wrong_answer

_FILES = (
    scaling,
    layout,
    initialisation,
    dropout,
    dropout_values,
    merging,
    combining,
    serving,
    dora,
    convolution,
    embedding,
    backwards,
    kernels,
)
_MODELS = (attention, heads, rope, norms, loss, extreme_logits, training, optimisers, use)
FAULTS: tuple[Fault, ...] = tuple(fault for file in (*_FILES, *_MODELS) for fault in file.FAULTS)

__all__ = ["FAULTS", "Fault", "wrong_answer"]
