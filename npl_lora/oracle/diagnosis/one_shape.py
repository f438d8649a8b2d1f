"""A subject that gives no answer wherever x has not as many axes as it expects."""

from collections.abc import Sequence

from ..contracts import CONTRACTS
from ..leading import with_axes
from ..report import Claim, Observed
from .precision import Ask


def takes_one_shape(observed: Sequence[Observed], ask: Ask) -> Claim | None:
    """The claim that it takes x of so many axes alone, if it answers no other case, and answers those, too, once they
    are asked in that shape."""
    if not CONTRACTS[observed[0].case.contract].leading:
        return None
    answered = {one.case["x"].ndim for one in observed if one.outputs is not None}
    others = [one.case for one in observed if one.outputs is None]
    if len(answered) != 1 or not others or answered & {case["x"].ndim for case in others}:
        return None
    axes = answered.pop()
    if any((case := with_axes(other, axes)) is None or ask(case) is None for other in others):
        return None
    return Claim(
        (),
        (),
        f"It gives no answer wherever x has not {axes} axes. If it takes no others, let it raise NotImplementedError"
        f" there: then it is asked the same with {axes}.",
    )
