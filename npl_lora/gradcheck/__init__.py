"""gradcheck: is a hand-written backward the derivative of its forward?

    report = gradcheck(op, {"x": x, "W": W}, scale=0.5)     # bool(report), print(report)
    assert_gradients(op, {"x": x, "W": W}, scale=0.5)       # raises AssertionError with the same text

It relies on one thing only: `y, pullback = op(**inputs, **config)`, where `pullback(dy)` maps the names of inputs to
their gradients. Your own functions need no more than that. Only NumPy lies below.

Reading order: _check, _interface, complex_step, differences, adjoint, exact.
"""

from ._check import METHODS, assert_gradients, gradcheck
from ._report import GradcheckReport, InputResult

__all__ = ["METHODS", "GradcheckReport", "InputResult", "assert_gradients", "gradcheck"]
