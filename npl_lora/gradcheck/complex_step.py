"""The complex step: f(x + ih) = f(x) + ih f'(x) - h^2 f''(x) / 2 - ..., so

    f'(x) = Im f(x + ih) / h + O(h^2)

for an analytic f that is real on the real line. Nothing is subtracted, so h may be 1e-200. Then the O(h^2) is gone, and
only the rounding of one evaluation remains, about 1e-16. Central differences stop near 1e-10.

Tolerance. Each element of an input gives one column of the Jacobian, J_ji = dy_j/dx_i, and the gradient must be
sum_j dy_j J_ji. The terms of this sum may cancel, in a right pullback as well as here. What rounding leaves is then
relative to S_i = sum_j |dy_j| |J_ji|, not to the result. So errors are measured in units of the largest S_i of the
array. 1e-12 of that is about 5000 roundings: at small sizes a right pullback is near 1e-15, and a wrong one seldom
below 1e-9.

Cancellation. S_i cannot see what cancels inside the Jacobian. Where a softmax is saturated, for example, 1 - p has few
digits left, and the gradients of its inputs are mostly rounding. So an input that fails is judged once more in
longdouble, where rounding shrinks 2048 times and a fault stays the same. (Where NumPy's longdouble is no wider than
float64, as on Windows, the first verdict stands.) With inputs of moderate size the question does not come up.

Complex safety. The forward must not use abs, conj, real or float buffers, and must compare by the real part. A forward
that does otherwise would make a right gradient look wrong, or a wrong one right. So each input's derivative along one
random direction is first compared with central differences, coarsely, and a forward that fails there is reported.

Source: Squire and Trapp, "Using complex variables to estimate derivatives of real functions", SIAM Review 40,
1998.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from ._compare import compare
from ._interface import Array, CannotJudge, OpUnderTest
from ._report import InputResult
from .differences import short_step

H = 1e-200
RTOL = 1e-12
HINT = "avoid abs, conj, .real, astype(float) and float buffers, or use method='differences'"


def check(tested: OpUnderTest, rng: np.random.Generator, rtol: float, directions: int | None) -> list[InputResult]:
    """One result for each input, from every element or from this many random directions."""
    return [_check_input(tested, name, rng, rtol, directions) for name in tested.gradients]


def _check_input(
    tested: OpUnderTest, name: str, rng: np.random.Generator, rtol: float, directions: int | None
) -> InputResult:
    try:
        refuse_unsafe(tested, {name: normal_like(tested.inputs[name], rng)})
    except CannotJudge as reason:
        return InputResult(name, False, note=str(reason))
    if directions is None:
        return unless_rounding(tested, name, lambda s: _every_element(s, name, rtol))
    return along_directions(tested, name, rng, rtol, directions)


def derivative(tested: OpUnderTest, direction: Mapping[str, Array]) -> Array:
    """J v: the derivative of y when each named input moves along its direction."""
    moved = {name: tested.inputs[name] + 1j * H * direction.get(name, 0.0) for name in tested.names}
    with warnings.catch_warnings():
        warnings.simplefilter("error", np.exceptions.ComplexWarning)  # a cast that drops the imaginary part
        try:
            y = tested.value(moved)
        except Exception as error:  # it ran on the real inputs, so the complex ones are the cause
            reason = f"{type(error).__name__}: {error}"
            raise CannotJudge(f"the forward is not complex-safe ({reason}); {HINT}") from error
    return np.imag(y) / H


def refuse_unsafe(tested: OpUnderTest, direction: Mapping[str, Array]) -> None:
    """Raises CannotJudge where the complex step and central differences plainly disagree."""
    by_step = derivative(tested, direction)
    by_differences, error = short_step(tested, direction)
    size = np.maximum(np.abs(by_step), np.abs(by_differences))
    unsafe = np.abs(by_step - by_differences) > 1e-3 * size + 100.0 * error
    if np.any(unsafe):
        worst = np.unravel_index(np.argmax(np.where(unsafe, size, -1.0)), size.shape)
        raise CannotJudge(
            f"the forward is not complex-safe: the complex step gives dy/dv = {by_step[worst]:.4g} "
            f"where differences give {by_differences[worst]:.4g}; {HINT}"
        )


def unless_rounding(tested: OpUnderTest, name: str, judge: Callable[[OpUnderTest], InputResult]) -> InputResult:
    """judge(tested). An error that longdouble makes at least 64 times smaller is rounding, and passes."""
    result = judge(tested)
    if result.ok:
        return result
    try:
        widened_op = tested.in_longdouble()
        if name not in widened_op.gradients:
            return result
        wide = judge(widened_op)
    except CannotJudge:
        return result
    with np.errstate(invalid="ignore"):
        error, wide_error = (float(abs(r.got - r.expected)) for r in (result, wide))
    if wide_error <= error / 64.0 < np.inf:  # NaN is not
        times = f"{error / wide_error:.0f} times" if wide_error else "altogether"
        return replace(result, ok=True, note=f"rounding: in longdouble it shrinks {times}")
    return result


def _every_element(tested: OpUnderTest, name: str, rtol: float) -> InputResult:
    x = tested.inputs[name]
    expected, terms = np.zeros_like(x), np.zeros_like(x)
    unit = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        unit[i] = 1.0
        column = tested.dy * derivative(tested, {name: unit})
        unit[i] = 0.0
        expected[i], terms[i] = np.sum(column), np.sum(np.abs(column))
    scale = np.max(terms, initial=0.0)
    return compare(name, tested.gradients[name], expected, rtol * scale, scale)


def along_directions(
    tested: OpUnderTest, name: str, rng: np.random.Generator, rtol: float, directions: int
) -> InputResult:
    """<g, v> against <dy, J v>, relative to the sum of |dy_j (J v)_j| and |g_i v_i|."""
    vs = [normal_like(tested.inputs[name], rng) for _ in range(directions)]
    return unless_rounding(tested, name, lambda s: _along(s, name, vs, rtol))


def _along(tested: OpUnderTest, name: str, vs: list[Array], rtol: float) -> InputResult:
    g = tested.gradients[name][0]
    columns = [tested.dy * derivative(tested, {name: v}) for v in vs]
    expected = np.array([np.sum(column) for column in columns])
    scale = np.array([np.sum(np.abs(c)) + np.sum(np.abs(g * v)) for c, v in zip(columns, vs, strict=True)])

    def measure(g: Array) -> Array:
        return np.array([np.sum(g * v) for v in vs])

    return compare(name, tested.gradients[name], expected, rtol * scale, scale, measure)


def normal_like(x: Array, rng: np.random.Generator) -> Array:
    return np.asarray(rng.standard_normal(x.shape))
