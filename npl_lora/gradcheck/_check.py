"""gradcheck: one call, four methods."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from . import adjoint, complex_step, differences, exact
from ._interface import Array, CannotJudge, OpUnderTest, describe, is_floating, widen
from ._report import GradcheckReport, InputResult

METHODS = ("complex-step", "differences", "adjoint", "exact")


def gradcheck(
    op: Callable[..., Any],
    inputs: Mapping[str, Any],
    *,
    method: str = "complex-step",
    dy: Array | None = None,
    seed: int = 0,
    directions: int | None = None,
    rtol: float | None = None,
    affine: bool = False,
    **config: Any,
) -> GradcheckReport:
    """Check the gradients of `y, pullback = op(**inputs, **config)` against the derivative of its forward.

    inputs: the arrays to differentiate, by name, and any other arguments: numbers, None, ids, masks. Floating arrays
    are widened to float64. config: constants, which may be arrays.

    The inputs checked are those in `pullback.inputs`, frozen ones included (`wrt` asks for them). A pullback that is a
    plain function must return a gradient for every floating array in inputs.

    method          what it compares                                    reaches   cost in forwards
    "complex-step"  every element, with Im op(x + ih) / h               1e-15     1 an element
    "differences"   every element, with central differences             1e-11     10 to 26 each, affine 2
    "adjoint"       <dy, J v> with <J^T dy, v>, all inputs together     1e-15     1
    "exact"         random integers for the inputs; polynomials only    equality  6 an input

    dy: the gradient of the loss, of y's shape; drawn from seed unless given.
    directions: for large inputs. Compare along this many random directions of each input (adjoint: of all inputs
        together) instead of element by element.
    rtol: the error allowed, in units of the largest sum of absolute terms. 1e-12 unless given; for differences, 1e-10
        plus their own estimate of their error; with affine, 1e-13.
    affine: for "differences". The op is affine in each input alone, so one long step is exact.

    "exact" also draws the floats among the inputs: give scale there, not in config.

    Every method also checks that each gradient is there and has its input's shape, that there are no gradients of other
    names, that neither the forward nor the pullback changes an array it was given, that a second call gives the same
    bits, and that a zero dy gives zero. NaN never passes.

    Raises TypeError or ValueError, one sentence, for arguments that make no sense, and whatever op itself raises.
    """
    _check_arguments(op, inputs, method, dy, directions, rtol, affine)
    name = getattr(op, "__name__", type(op).__name__)
    rng = np.random.default_rng(seed)
    tested = OpUnderTest(op, widen(inputs), config)
    try:
        tested.ask(_dy(tested, dy, rng))
        if method == "exact":
            tested = exact.on_integers(op, tested.inputs, config, rng)
    except CannotJudge as reason:
        unknown = [InputResult(n, False, note="not judged") for n in tested.names]
        return GradcheckReport(name, method, _with_faults(tested, unknown), (*_general_faults(tested), str(reason)))
    results = _check_by(tested, method, rng, directions, rtol, affine)
    tested.ask_again()
    remarks = [exact.PROMISE] if method == "exact" else []
    if constant := [n for n in config if is_floating(config[n])]:
        remarks.append(f"held constant, and not checked: {', '.join(constant)}")
    return GradcheckReport(name, method, _with_faults(tested, results), _general_faults(tested), tuple(remarks))


def assert_gradients(op: Callable[..., Any], inputs: Mapping[str, Any], **options: Any) -> None:
    """gradcheck for a test: raises AssertionError with the report's text unless everything is right."""
    gradcheck(op, inputs, **options).raise_if_failed()


def _check_by(
    tested: OpUnderTest,
    method: str,
    rng: np.random.Generator,
    directions: int | None,
    rtol: float | None,
    affine: bool,
) -> list[InputResult]:
    if method == "exact":
        return exact.check(tested, rng)
    if method == "differences":
        return differences.check(tested, rng, rtol, directions, affine)
    check = complex_step.check if method == "complex-step" else adjoint.check
    return check(tested, rng, complex_step.RTOL if rtol is None else rtol, directions)


def _dy(tested: OpUnderTest, dy: Array | None, rng: np.random.Generator) -> Array:
    if tested.y.dtype.kind != "f":
        raise TypeError(f"op returned y as {describe(tested.y)}, expected a floating array")
    dtype = tested.inputs[tested.names[0]].dtype
    if dy is None:
        return np.asarray(rng.standard_normal(tested.y.shape), dtype)
    if np.shape(dy) != tested.y.shape:
        raise ValueError(f"dy has shape {np.shape(dy)}, expected y's {tested.y.shape}")
    return np.array(dy, dtype)


def _with_faults(tested: OpUnderTest, results: list[InputResult]) -> tuple[InputResult, ...]:
    """The results with each input's faults added to its line. An input with faults but no line gets one that fails."""
    notes: dict[str, list[str]] = {}
    for name, sentence in tested.faults:
        if name:
            notes.setdefault(name, []).append(sentence)
    merged = []
    for r in results:
        if own := notes.pop(r.name, None):
            note = "; ".join([*own, r.note] if r.note else own)
            r = InputResult(r.name, False, r.error, r.index, r.expected, r.got, note)
        merged.append(r)
    return (*merged, *(InputResult(name, False, note="; ".join(own)) for name, own in notes.items()))


def _general_faults(tested: OpUnderTest) -> tuple[str, ...]:
    return tuple(sentence for name, sentence in tested.faults if not name)


def _check_arguments(
    op: Any, inputs: Any, method: str, dy: Any, directions: int | None, rtol: float | None, affine: bool
) -> None:
    if not callable(op):
        raise TypeError(f"op is {describe(op)}, expected a function")
    if not isinstance(inputs, Mapping):
        raise TypeError(f"inputs is {describe(inputs)}, expected a mapping of names to arrays")
    if method not in METHODS:
        raise ValueError(f"method is {method!r}, expected one of {', '.join(map(repr, METHODS))}")
    if method == "exact" and (dy is not None or directions is not None or rtol is not None):
        raise ValueError("method 'exact' draws dy and has no tolerance, expected no dy, directions or rtol")
    if affine and method != "differences":
        raise ValueError(f"affine is given with method {method!r}, expected 'differences'")
    if directions is not None and (type(directions) is not int or directions < 1):
        raise ValueError(f"directions is {directions!r}, expected a positive integer")
    if rtol is not None and not 0 < rtol < 1:
        raise ValueError(f"rtol is {rtol!r}, expected a number between 0 and 1")
    for name, value in inputs.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "cOV":
            raise TypeError(f"{name} is {describe(value)}, expected real floating numbers, integers or bools")
