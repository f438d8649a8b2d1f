"""merge and unmerge: add LoRA's update to the weight, and take it away again.

    W' = W + s B A            merge: W' is the merged weight
    W = W' - s B A            unmerge

With fan_in_fan_out, W is stored as (in, out), as in GPT-2's Conv1D, and (s B A)^T is added. A and B keep their shapes.

Derivation. dW' is the gradient of the loss with respect to the merged weight. W' is affine in each of W, A and B:

    1. W.  δL = <dW', δW>                                        dW = dW'
    2. B.  δL = <dW', s δB A> = <s dW' A^T, δB>                  dB = s dW' A^T
    3. A.  δL = <dW', s B δA> = <s B^T dW', δA>                  dA = s B^T dW'

Under fan_in_fan_out, dW' is transposed before steps 2 and 3. unmerge has the same gradients with -s for s.

In floating point, (W + s B A) - s B A is not exactly W. To get W back bit by bit, keep W.

Source: Hu et al. 2021, section 4.1 ("no additional inference latency").
"""

from __future__ import annotations

from ._interface import Array, Pullback
from .checks import check_inputs, check_number


def merge(
    W: Array,  # (out, in), or (in, out) with fan_in_fan_out; frozen
    A: Array,  # (r, in)
    B: Array,  # (out, r)
    *,
    scale: float,  # s, as in lora_linear
    fan_in_fan_out: bool = False,  # True: W is stored as (in, out)
) -> tuple[Array, Pullback]:  # W' (out, in), or (in, out) with fan_in_fan_out
    """W' = W + scale B A.

    Shapes: W (out, in), or (in, out) with fan_in_fan_out, frozen; A (r, in), B (out, r) -> W' (out, in), stored as W.

    The pullback differentiates A and B, and W when `wrt` names it.
    Raises TypeError and ValueError for arguments that do not fit together.
    Derivation: at the top of npl_lora/ops/merge.py.
    """
    return _add_update(W, A, B, check_number("scale", scale), fan_in_fan_out, "W")


def unmerge(
    W_merged: Array,  # (out, in), or (in, out) with fan_in_fan_out; frozen
    A: Array,  # (r, in)
    B: Array,  # (out, r)
    *,
    scale: float,  # s, as in lora_linear
    fan_in_fan_out: bool = False,  # True: W_merged is stored as (in, out)
) -> tuple[Array, Pullback]:  # W (out, in), or (in, out) with fan_in_fan_out
    """W = W_merged - scale B A: takes away what merge added.

    Shapes: W_merged (out, in), or (in, out) with fan_in_fan_out, frozen; A (r, in), B (out, r) -> W (out, in),
    stored as W_merged.

    The pullback differentiates A and B, and W_merged when `wrt` names it.
    Raises TypeError and ValueError for arguments that do not fit together.
    Derivation: at the top of npl_lora/ops/merge.py.
    """
    return _add_update(W_merged, A, B, -check_number("scale", scale), fan_in_fan_out, "W_merged")


def _add_update(W: Array, A: Array, B: Array, s: float, fan_in_fan_out: bool, name: str) -> tuple[Array, Pullback]:
    """W + s B A; the gradient of W goes by `name`. unmerge gives -scale for s."""
    check_inputs(A=(A, "r in"), B=(B, "out r"), **{name: (W, "in out" if fan_in_fan_out else "out in")})
    update = s * (B @ A)
    y = W + (update.T if fan_in_fan_out else update)

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        d_update = dy.T if fan_in_fan_out else dy  # forward was: W' = W + s B A
        grads = {}
        if "A" in wrt:
            grads["A"] = s * (B.T @ d_update)  # forward was: W' = W + s B A
        if "B" in wrt:
            grads["B"] = s * (d_update @ A.T)  # forward was: W' = W + s B A
        if name in wrt:
            grads[name] = dy  # forward was: W' = W + s B A
        return grads

    return y, Pullback(backward, y, inputs=("A", "B", name), frozen=(name,))
