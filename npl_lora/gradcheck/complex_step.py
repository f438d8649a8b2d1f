"""The complex step: f(x + ih) = f(x) + ih f'(x) - h^2 f''(x) / 2 - ..., so

    f'(x) = Im f(x + ih) / h + O(h^2)

for an analytic f that is real on the real line. Nothing is subtracted, so h may be 1e-200, the O(h^2) is
gone, and what remains is the rounding of one evaluation: about 1e-16, where central differences stop near
1e-10.

Each element of an input gives one column of the Jacobian, J_ji = dy_j/dx_i, and the gradient must be sum_j
dy_j J_ji. The terms of that sum may cancel, in a right pullback as well as here; what rounding leaves is then
relative to S_i = sum_j |dy_j| |J_ji|, not to the result. An error is therefore measured in units of the
largest S_i of the array. 1e-12 of that is some 5000 roundings: a right pullback at small sizes is near 1e-15,
a wrong one seldom below 1e-9.

S_i cannot see what cancels inside the Jacobian: where a softmax is saturated, 1 - p has few digits left and
the gradients of its inputs are mostly rounding. So an input that fails is judged once more in longdouble,
where rounding shrinks 2048 times and a fault stays as it is. (Where NumPy's longdouble is no wider than
float64, as on Windows, the first verdict stands.) Inputs of moderate size spare everyone the question.

The forward must be complex-safe: no abs, conj, real, no float buffers; comparisons by the real part. One that
is not would make a right gradient look wrong, or a wrong one right. So each input's derivative in one random
direction is compared with central differences first, coarsely, and a forward that fails there is reported as
such.

Source: Squire and Trapp, "Using complex variables to estimate derivatives of real functions", SIAM Review 40,
1998.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from ._compare import compare
from ._interface import Array, CannotJudge, Subject
from ._report import InputResult
from .differences import short_step

H = 1e-200
RTOL = 1e-12
HINT = "avoid abs, conj, .real, astype(float) and float buffers, or use method='differences'"


def check(subject: Subject, rng: np.random.Generator, rtol: float, directions: int | None) -> list[InputResult]:
    """One result for each input, from every element or from so many random directions."""
    return [_check_input(subject, name, rng, rtol, directions) for name in subject.gradients]


def _check_input(
    subject: Subject, name: str, rng: np.random.Generator, rtol: float, directions: int | None
) -> InputResult:
    try:
        refuse_unsafe(subject, {name: normal_like(subject.inputs[name], rng)})
    except CannotJudge as reason:
        return InputResult(name, False, note=str(reason))
    if directions is None:
        return unless_rounding(subject, name, lambda s: _every_element(s, name, rtol))
    return along_directions(subject, name, rng, rtol, directions)


def derivative(subject: Subject, direction: Mapping[str, Array]) -> Array:
    """J v: the derivative of y when each named input moves along its direction."""
    moved = {name: subject.inputs[name] + 1j * H * direction.get(name, 0.0) for name in subject.names}
    with warnings.catch_warnings():
        warnings.simplefilter("error", np.exceptions.ComplexWarning)  # a cast that drops the imaginary part
        try:
            y = subject.value(moved)
        except Exception as error:  # it ran on the real inputs, so this is the complex ones' doing
            reason = f"{type(error).__name__}: {error}"
            raise CannotJudge(f"the forward is not complex-safe ({reason}); {HINT}") from error
    return np.imag(y) / H


def refuse_unsafe(subject: Subject, direction: Mapping[str, Array]) -> None:
    """Raises CannotJudge where the complex step and central differences are plainly of two minds."""
    by_step = derivative(subject, direction)
    by_differences, error = short_step(subject, direction)
    size = np.maximum(np.abs(by_step), np.abs(by_differences))
    unsafe = np.abs(by_step - by_differences) > 1e-3 * size + 100.0 * error
    if np.any(unsafe):
        worst = np.unravel_index(np.argmax(np.where(unsafe, size, -1.0)), size.shape)
        raise CannotJudge(
            f"the forward is not complex-safe: the complex step gives dy/dv = {by_step[worst]:.4g} "
            f"where differences give {by_differences[worst]:.4g}; {HINT}"
        )


def unless_rounding(subject: Subject, name: str, judge: Callable[[Subject], InputResult]) -> InputResult:
    """judge(subject); an error that longdouble makes 64 times smaller is rounding, and passes."""
    result = judge(subject)
    if result.ok:
        return result
    try:
        wide_subject = subject.in_longdouble()
        if name not in wide_subject.gradients:
            return result
        wide = judge(wide_subject)
    except CannotJudge:
        return result
    with np.errstate(invalid="ignore"):
        error, wide_error = (float(abs(r.got - r.expected)) for r in (result, wide))
    if wide_error <= error / 64.0 < np.inf:  # NaN is not
        times = f"{error / wide_error:.0f} times" if wide_error else "altogether"
        return replace(result, ok=True, note=f"rounding: in longdouble it shrinks {times}")
    return result


def _every_element(subject: Subject, name: str, rtol: float) -> InputResult:
    x = subject.inputs[name]
    expected, terms = np.zeros_like(x), np.zeros_like(x)
    unit = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        unit[i] = 1.0
        column = subject.dy * derivative(subject, {name: unit})
        unit[i] = 0.0
        expected[i], terms[i] = np.sum(column), np.sum(np.abs(column))
    scale = np.max(terms, initial=0.0)
    return compare(name, subject.gradients[name], expected, rtol * scale, scale)


def along_directions(
    subject: Subject, name: str, rng: np.random.Generator, rtol: float, directions: int
) -> InputResult:
    """<g, v> against <dy, J v>, relative to the sum of |dy_j (J v)_j| and |g_i v_i|."""
    vs = [normal_like(subject.inputs[name], rng) for _ in range(directions)]
    return unless_rounding(subject, name, lambda s: _along(s, name, vs, rtol))


def _along(subject: Subject, name: str, vs: list[Array], rtol: float) -> InputResult:
    g = subject.gradients[name][0]
    columns = [subject.dy * derivative(subject, {name: v}) for v in vs]
    expected = np.array([np.sum(column) for column in columns])
    scale = np.array([np.sum(np.abs(c)) + np.sum(np.abs(g * v)) for c, v in zip(columns, vs, strict=True)])

    def measure(g: Array) -> Array:
        return np.array([np.sum(g * v) for v in vs])

    return compare(name, subject.gradients[name], expected, rtol * scale, scale, measure)


def normal_like(x: Array, rng: np.random.Generator) -> Array:
    return np.asarray(rng.standard_normal(x.shape))
