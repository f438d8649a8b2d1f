"""A subject that raises wherever x has not as many axes as it expects."""

from collections.abc import Sequence

from ..contracts import CONTRACTS
from ..report import Claim, Observed


def takes_one_shape(observed: Sequence[Observed]) -> Claim | None:
    """The claim that it takes x of so many axes alone, if it raises for all others and never for those."""
    if not CONTRACTS[observed[0].case.contract].leading:
        return None
    answered = {one.case["x"].ndim for one in observed if one.outputs is not None}
    raised = {one.case["x"].ndim for one in observed if one.outputs is None}
    if len(answered) != 1 or not raised or answered & raised:
        return None
    axes = answered.pop()
    return Claim(
        (),
        (),
        f"It raises wherever x has not {axes} axes. If it takes no others, let it raise NotImplementedError there: then"
        f" it is asked the same with {axes}.",
    )
