"""The adjoint test: J^T is the transpose of J when, for any dy and v,

    <dy, J v> = <J^T dy, v>

On the left, J v by one complex step along a random direction v of all inputs together; on the right, the
pullback's gradients. Two calls, whatever the size of the inputs. The error is relative to the sum of the
absolute terms on both sides, so a fault in an input that hardly matters to y may hide below rtol;
complex-step does not let it.

When the sums differ, the inputs are taken one at a time, to say which.

Source: Claerbout, "Earth Soundings Analysis", 1992 (the dot-product test); Squire and Trapp 1998 for the
complex step.
"""

import numpy as np

from ._interface import Array, CannotJudge, Subject
from ._report import InputResult
from .complex_step import along_directions, derivative, normal_like, refuse_unsafe


def check(subject: Subject, rng: np.random.Generator, rtol: float, directions: int | None) -> list[InputResult]:
    """One result for all inputs when the sums agree; one for each input when they do not."""
    names = tuple(subject.gradients)
    if not names:
        return []
    together = ", ".join(names)
    errors = []
    try:
        for k in range(directions or 1):
            v = {name: normal_like(subject.inputs[name], rng).astype(subject.dy.dtype) for name in names}
            if k == 0:
                refuse_unsafe(subject, v)
            errors += _errors(subject, v)
    except CannotJudge as reason:
        return [InputResult(together, False, note=str(reason))]
    if all(error <= rtol for error in errors):  # NaN <= rtol is False
        return [InputResult(together, True, max(errors, default=0.0))]
    # What passes one at a time and fails in the sum has cancelled in the sum: that is rounding, and passes.
    return [along_directions(subject, name, rng, rtol, 3) for name in names]


def _errors(subject: Subject, v: dict[str, Array]) -> list[float]:
    """|<dy, J v> - <g, v>| relative to its terms, for each way in which the pullback answered."""
    left = subject.dy * derivative(subject, v)
    errors = []
    for k in range(max(map(len, subject.gradients.values()), default=0)):
        right = [answers[min(k, len(answers) - 1)] * v[name] for name, answers in subject.gradients.items()]
        scale = np.sum(np.abs(left)) + sum(np.sum(np.abs(terms)) for terms in right)
        difference = abs(np.sum(left) - sum(np.sum(terms) for terms in right))
        errors.append(float(difference / scale) if scale > 0 else float(difference))
    return errors
