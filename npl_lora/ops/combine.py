"""combine: several adapters of one weight as one change of that weight.

    delta = sum_i w_i s_i B_i A_i         (out, in)

w_i is the weight of adapter i in the sum and may be negative. s_i is its scale, and its rank r_i is its own.

The sum is itself a low-rank product, of rank at most sum_i r_i, with the factors laid side by side:

    delta = [B_1 | B_2 | ...] [w_1 s_1 A_1 ; w_2 s_2 A_2 ; ...]

This is how the sum is kept as one adapter ("cat"). Summing the factors before multiplying, (sum B_i)(sum A_i), gives
something else: it also holds the products B_i A_j of different adapters.

Derivation. delta is linear in each factor, and each factor stands in one term alone:

    1. B_i.  δL = <d_delta, w_i s_i δB_i A_i> = <w_i s_i d_delta A_i^T, δB_i>      dB_i = w_i s_i d_delta A_i^T
    2. A_i.  δL = <d_delta, w_i s_i B_i δA_i> = <w_i s_i B_i^T d_delta, δA_i>      dA_i = w_i s_i B_i^T d_delta

Source: Hu et al. 2021, section 4.1, for one adapter; "cat" is the name in PEFT's add_weighted_adapter.
"""

from __future__ import annotations

from collections.abc import Sequence

from ._interface import Array, Pullback
from .checks import check_inputs, check_number


def combine(
    *,
    weights: Sequence[float],  # w_i, one for each adapter
    scales: Sequence[float],  # s_i, one for each adapter
    **factors: Array,  # A_i (r_i, in), B_i (out, r_i), i = 1, 2, ...
) -> tuple[Array, Pullback]:  # delta (out, in)
    """delta = sum_i weights[i] scales[i] B_i A_i, where the adapters are counted from 1.

    Shapes: A_i (r_i, in), B_i (out, r_i) -> delta (out, in).

    The factors are given by name, A_1, B_1, A_2, B_2, ..., as many pairs as there are weights and scales.
    The pullback differentiates every factor. Raises TypeError and ValueError for arguments that do not fit together.
    Derivation: at the top of npl_lora/ops/combine.py.
    """
    if not len(weights):
        raise ValueError("weights has length 0, expected at least 1")
    if len(scales) != len(weights):
        raise ValueError(f"scales has length {len(scales)}, expected {len(weights)}, the length of weights")
    pairs = [(f"A_{i}", f"B_{i}") for i in range(1, len(weights) + 1)]
    names = [name for pair in pairs for name in pair]
    if unknown := [name for name in factors if name not in names]:
        raise TypeError(f"combine was given {', '.join(unknown)}, expected {', '.join(names)}")
    letters = {name: f"r_{name[2:]} in" if name[0] == "A" else f"out r_{name[2:]}" for name in names}
    check_inputs(**{name: (factors.get(name), letters[name]) for name in names})
    shares = [
        check_number(f"weights[{i}]", w) * check_number(f"scales[{i}]", s)
        for i, (w, s) in enumerate(zip(weights, scales, strict=True))
    ]
    terms = [share * (factors[B] @ factors[A]) for share, (A, B) in zip(shares, pairs, strict=True)]
    delta = terms[0]
    for term in terms[1:]:
        delta = delta + term

    def backward(d_delta: Array, wrt: frozenset[str]) -> dict[str, Array]:
        grads = {}
        for share, (A, B) in zip(shares, pairs, strict=True):
            if A in wrt:
                grads[A] = share * (factors[B].T @ d_delta)  # forward was: delta = sum_i w_i s_i B_i A_i
            if B in wrt:
                grads[B] = share * (d_delta @ factors[A].T)  # forward was: delta = sum_i w_i s_i B_i A_i
        return grads

    return delta, Pullback(backward, delta, inputs=tuple(names))
