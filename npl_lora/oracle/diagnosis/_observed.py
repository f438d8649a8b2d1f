"""What a diagnosis looks at: a case, what came back for it, and what is right."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..case import Case
from ..judge import Right


@dataclass(frozen=True)
class Observed:
    """outputs is None where the subject gave no answer: it raised, say. failed: the outputs that were judged wrong."""

    case: Case
    right: Mapping[str, Right]
    outputs: Mapping[str, np.ndarray] | None
    failed: tuple[str, ...]
