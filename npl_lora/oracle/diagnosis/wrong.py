"""One wrong output of one case, and the test whether a value explains it."""

from dataclasses import dataclass

import numpy as np

from ..case import Case
from ..tolerance.judge import Right
from .compare import is_nearer


@dataclass(frozen=True)
class Wrong:
    """One output of one case: the right answer, those of the case's other outputs, and what came back, in float64."""

    name: str
    case: Case
    right: Right
    rights: dict[str, Right]
    got: np.ndarray

    @property
    def wrong(self) -> np.ndarray:
        """Where it is off by more than is allowed."""
        return ~(np.abs(self.got - self.right.value) <= self.right.allowed)

    @property
    def slack(self) -> np.ndarray:
        """What is allowed. Where the right answer has no terms, the largest that is allowed anywhere."""
        return np.where(self.right.size == 0, np.max(self.right.allowed, initial=0.0), self.right.allowed)

    def explained(self, value: np.ndarray, factor: float = 1.0, rounding: np.ndarray | float = 0.0) -> bool:
        """Whether value is what came back, within what is allowed for numbers of its size, and much nearer to it than
        the right answer is. rounding: what may be off because value was computed in float64."""
        within = bool(np.all(np.abs(self.got - value) <= max(abs(factor), 1.0) * self.slack + rounding))
        return within and is_nearer(self.got, value, self.right.value)
