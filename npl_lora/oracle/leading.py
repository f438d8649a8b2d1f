"""For a subject that takes x of three axes alone, or of two: each case is asked with as many.

Such a subject says so: it does not support a case whose x has others. Only the leading axes change, so the numbers of
the case stay, and so do those of the right answer.
"""

import math
from collections.abc import Callable
from dataclasses import replace

from .case import Case
from .contracts import CONTRACTS
from .subjects import Answer

_AXES = (3, 2)


def ask_as_supported(ask: Callable[[Case], Answer], case: Case) -> tuple[Case, Answer]:
    """Ask a case. If it is not supported, ask it with x of three axes, and then of two.

    Returns the case as it was answered, or as it is if none was.
    """
    answer = ask(case)
    if answer.absent is not None:
        for other in filter(None, (with_axes(case, axes) for axes in _AXES)):
            again = ask(other)
            if again.outputs:
                return other, again
    return case, answer


def with_axes(case: Case, axes: int) -> Case | None:
    """The same case with x of so many axes; None if it has as many, or if the contract fixes them."""
    names = CONTRACTS[case.contract].leading
    if not names or case["x"].ndim == axes:
        return None
    *others, last = (1, *case["x"].shape[:-1])
    leading = (math.prod(others), last) if axes == 3 else (math.prod(others) * last,)
    arrays = {name: case[name].reshape(*leading, case[name].shape[-1]) for name in names if name in case}
    return replace(case, arrays={**case.arrays, **arrays})
