"""gradcheck: one call, four methods."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from . import adjoint, complex_step, differences, exact
from ._interface import Array, CannotJudge, Subject, is_floating, kind, widened
from ._report import InputResult, Report

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
) -> Report:
    """Check the gradients of `y, pullback = op(**inputs, **config)` against the derivative of its forward.

    inputs: what is to be differentiated, by name, and any other arguments: numbers, None, ids, masks.
    Floating arrays are widened to float64. The names checked are `pullback.inputs`, frozen ones included
    (`wrt` asks for them); a pullback that is a bare function must return a gradient for every floating array
    in inputs. config is constant, arrays too.

    method          what it compares                                    reaches   cost in forwards
    "complex-step"  every element, with Im op(x + ih) / h               1e-15     1 an element
    "differences"   every element, with central differences             1e-11     10 to 26 each, affine 2
    "adjoint"       <dy, J v> with <J^T dy, v>, all inputs together     1e-15     1
    "exact"         random integers for the inputs; polynomials only    equality  6 an input

    dy: the gradient of the loss, of y's shape; drawn from seed unless given. directions: compare along so
    many random directions of each input (adjoint: of all together) in place of every element, for large
    inputs. rtol: the error allowed, in units of the largest sum of absolute terms; 1e-12 unless given
    (differences: 1e-10 and their own estimate of error; affine: 1e-13). affine, for "differences": the op is
    affine in each input alone, so one long step is exact.
    "exact" also draws the numbers among the inputs that are floats: give scale there, not in config.

    Besides, for every method: each gradient is there and has its input's shape, no other name is, neither
    forward nor pullback changes an array it was given, a second call gives the same bits, and a zero dy gives
    zero. NaN never passes.

    Raises TypeError or ValueError, one sentence, for arguments that make no sense, and what op itself raises.
    """
    _check_arguments(op, inputs, method, dy, directions, rtol, affine)
    name = getattr(op, "__name__", type(op).__name__)
    rng = np.random.default_rng(seed)
    subject = Subject(op, widened(inputs), config)
    try:
        subject.ask(_dy(subject, dy, rng))
        if method == "exact":
            subject = exact.subject_on_integers(op, subject.inputs, config, rng)
    except CannotJudge as reason:
        unknown = [InputResult(n, False, note="not judged") for n in subject.names]
        return Report(name, method, _with_faults(subject, unknown), (*_general(subject), str(reason)))
    results = _run(subject, method, rng, directions, rtol, affine)
    subject.ask_again()
    remarks = [exact.PROMISE] if method == "exact" else []
    if constant := [n for n in config if is_floating(config[n])]:
        remarks.append(f"held constant, and not checked: {', '.join(constant)}")
    return Report(name, method, _with_faults(subject, results), _general(subject), tuple(remarks))


def assert_gradients(op: Callable[..., Any], inputs: Mapping[str, Any], **options: Any) -> None:
    """gradcheck, for a test: raises AssertionError with the report's text unless everything is right."""
    gradcheck(op, inputs, **options).raise_if_failed()


def _run(
    subject: Subject,
    method: str,
    rng: np.random.Generator,
    directions: int | None,
    rtol: float | None,
    affine: bool,
) -> list[InputResult]:
    if method == "exact":
        return exact.check(subject, rng)
    if method == "differences":
        return differences.check(subject, rng, rtol, directions, affine)
    run = complex_step.check if method == "complex-step" else adjoint.check
    return run(subject, rng, complex_step.RTOL if rtol is None else rtol, directions)


def _dy(subject: Subject, dy: Array | None, rng: np.random.Generator) -> Array:
    if subject.y.dtype.kind != "f":
        raise TypeError(f"op returned y as {kind(subject.y)}, expected a floating array")
    dtype = subject.inputs[subject.names[0]].dtype
    if dy is None:
        return np.asarray(rng.standard_normal(subject.y.shape), dtype)
    if np.shape(dy) != subject.y.shape:
        raise ValueError(f"dy has shape {np.shape(dy)}, expected y's {subject.y.shape}")
    return np.array(dy, dtype)


def _with_faults(subject: Subject, results: list[InputResult]) -> tuple[InputResult, ...]:
    """Each input's faults on its own line; an input that has no line yet gets one, and it does not pass."""
    notes: dict[str, list[str]] = {}
    for name, sentence in subject.faults:
        if name:
            notes.setdefault(name, []).append(sentence)
    merged = []
    for r in results:
        if own := notes.pop(r.name, None):
            note = "; ".join([*own, r.note] if r.note else own)
            r = InputResult(r.name, False, r.error, r.index, r.expected, r.got, note)
        merged.append(r)
    return (*merged, *(InputResult(name, False, note="; ".join(own)) for name, own in notes.items()))


def _general(subject: Subject) -> tuple[str, ...]:
    return tuple(sentence for name, sentence in subject.faults if not name)


def _check_arguments(
    op: Any, inputs: Any, method: str, dy: Any, directions: int | None, rtol: float | None, affine: bool
) -> None:
    if not callable(op):
        raise TypeError(f"op is {kind(op)}, expected a function")
    if not isinstance(inputs, Mapping):
        raise TypeError(f"inputs is {kind(inputs)}, expected a mapping of names to arrays")
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
            raise TypeError(f"{name} is {kind(value)}, expected real floating numbers, integers or bools")
