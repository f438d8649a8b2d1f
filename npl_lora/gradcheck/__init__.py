"""gradcheck: is a hand-written backward the derivative of its forward?

    report = gradcheck(op, {"x": x, "W": W}, scale=0.5)     # bool(report), print(report)
    assert_gradients(op, {"x": x, "W": W}, scale=0.5)       # AssertionError with the same text

It knows one thing about what it checks: `y, pullback = op(**inputs, **config)`, and `pullback(dy)` maps the
names of inputs to their gradients. A function of your own needs no more than that. Reading order: _check,
_interface, complex_step, differences, adjoint, exact. NumPy alone lies below.
"""

from ._check import METHODS, assert_gradients, gradcheck
from ._report import InputResult, Report

__all__ = ["METHODS", "InputResult", "Report", "assert_gradients", "gradcheck"]
