"""merge and unmerge: W' = W + s B A, and back.

With fan_in_fan_out, W is stored as (in, out), as GPT-2's Conv1D has it, and (s B A)^T is added; A and B keep their
shapes.

Derivation. W' is affine in B and in A: dL = <dW', s (change of B) A> = <s dW' A^T, dB'>, and likewise for A:

    dB = s dW' A^T        dA = s B^T dW'        dW = dW'

with dW' transposed first under fan_in_fan_out. unmerge has the same gradients with -s. In floating point
(W + D) - D is not W: to return to W bit by bit, keep W.

Source: Hu et al. 2021, section 4.1 ("no additional inference latency").
"""

from ._interface import Array, Pullback
from .checks import check_inputs, check_number


def merge(W: Array, A: Array, B: Array, *, scale: float, fan_in_fan_out: bool = False) -> tuple[Array, Pullback]:
    """W' = W + scale B A.

    W (out, in), or (in, out) with fan_in_fan_out; A (r, in), B (out, r) -> W', of W's shape.
    The pullback differentiates A and B, and W when asked.
    """
    return _add_delta(W, A, B, check_number("scale", scale), fan_in_fan_out, "W")


def unmerge(
    W_merged: Array, A: Array, B: Array, *, scale: float, fan_in_fan_out: bool = False
) -> tuple[Array, Pullback]:
    """W = W_merged - scale B A: what merge added is taken away. Shapes as in merge."""
    return _add_delta(W_merged, A, B, -check_number("scale", scale), fan_in_fan_out, "W_merged")


def _add_delta(W: Array, A: Array, B: Array, scale: float, fan_in_fan_out: bool, name: str) -> tuple[Array, Pullback]:
    check_inputs(A=(A, "r in"), B=(B, "out r"), **{name: (W, "in out" if fan_in_fan_out else "out in")})
    delta = scale * (B @ A)
    y = W + (delta.T if fan_in_fan_out else delta)

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        d_delta = dy.T if fan_in_fan_out else dy
        grads = {}
        if "A" in wrt:
            grads["A"] = scale * (B.T @ d_delta)
        if "B" in wrt:
            grads["B"] = scale * (d_delta @ A.T)
        if name in wrt:
            grads[name] = dy
        return grads

    return y, Pullback(backward, y, inputs=("A", "B", name), frozen=(name,))
