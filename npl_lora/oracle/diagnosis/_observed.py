"""What a diagnosis looks at: a case, what came back for it, and what is right."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..case import Case
from ..judge import Right
from ..statistics import Distribution


@dataclass(frozen=True)
class Observed:
    """outputs is None where the subject gave no answer: it raised, say. failed: the outputs that were judged wrong.
    objections: what was said of outputs whose numbers are right, and whose draws are not."""

    case: Case
    right: Mapping[str, Right | Distribution]
    outputs: Mapping[str, np.ndarray] | None
    failed: tuple[str, ...]
    objections: tuple[str, ...] = ()
