"""The adjoint test: J^T is the transpose of J when, for any dy and v,

    <dy, J v> = <J^T dy, v>

The left side takes J v from one complex step along a random direction v of all inputs together. The right side takes
the pullback's gradients. This costs two calls, whatever the size of the inputs. When the sides differ, the inputs are
tested one at a time, to say which of them is wrong.

The error is relative to the sum of the absolute terms on both sides. So a fault in an input that hardly affects y may
hide below rtol, which it cannot do from "complex-step".

Source: Claerbout, "Earth Soundings Analysis", 1992 (the dot-product test); Squire and Trapp 1998 for the
complex step.
"""

import numpy as np

from ._interface import Array, CannotJudge, OpUnderTest
from ._report import InputResult
from .complex_step import along_directions, derivative, normal_like, refuse_unsafe


def check(tested: OpUnderTest, rng: np.random.Generator, rtol: float, directions: int | None) -> list[InputResult]:
    """One result for all inputs when the sums agree; one for each input when they do not."""
    names = tuple(tested.gradients)
    if not names:
        return []
    together = ", ".join(names)
    errors = []
    try:
        for k in range(directions or 1):
            v = {name: normal_like(tested.inputs[name], rng).astype(tested.dy.dtype) for name in names}
            if k == 0:
                refuse_unsafe(tested, v)
            errors += _errors(tested, v)
    except CannotJudge as reason:
        return [InputResult(together, False, note=str(reason))]
    if all(error <= rtol for error in errors):  # NaN <= rtol is False
        return [InputResult(together, True, max(errors, default=0.0))]
    # Inputs that pass one at a time but fail together have cancelled in the sum. That is rounding, and passes.
    return [along_directions(tested, name, rng, rtol, 3) for name in names]


def _errors(tested: OpUnderTest, v: dict[str, Array]) -> list[float]:
    """|<dy, J v> - <g, v>| relative to its terms, for each of the pullback's answers."""
    left = tested.dy * derivative(tested, v)
    errors = []
    for k in range(max(map(len, tested.gradients.values()), default=0)):
        right = [answers[min(k, len(answers) - 1)] * v[name] for name, answers in tested.gradients.items()]
        scale = np.sum(np.abs(left)) + sum(np.sum(np.abs(terms)) for terms in right)
        difference = abs(np.sum(left) - sum(np.sum(terms) for terms in right))
        errors.append(float(difference / scale) if scale > 0 else float(difference))
    return errors
