"""combine: several adapters of one weight as one change of it, delta = sum_i w_i s_i B_i A_i.

w_i is the weight of adapter i in the sum and may be negative; s_i is its scale; its rank r_i is its own. The sum is
itself a low-rank product, of rank at most sum_i r_i, of the factors laid side by side:

    delta = [B_1 | B_2 | ...] [w_1 s_1 A_1 ; w_2 s_2 A_2 ; ...]

which is how it is kept as one adapter ("cat"). Summing the factors before multiplying, (sum B_i)(sum A_i), is another
thing: it has the products B_i A_j of different adapters in it.

Derivation. delta is linear in each factor, and each stands in one term alone:

    dL = <d_delta, w_i s_i (change of B_i) A_i> = <w_i s_i d_delta A_i^T, dB_i'>       dB_i = w_i s_i d_delta A_i^T
                                                                                       dA_i = w_i s_i B_i^T d_delta

Source: Hu et al. 2021, section 4.1, for one adapter; "cat" is the name in PEFT's add_weighted_adapter.
"""

from collections.abc import Sequence

from ._interface import Array, Pullback
from .checks import check_inputs, check_number


def combine(*, weights: Sequence[float], scales: Sequence[float], **factors: Array) -> tuple[Array, Pullback]:
    """delta = sum_i weights[i] scales[i] B_i A_i, the adapters counted from 1.

    factors: A_1 (r_1, in), B_1 (out, r_1), A_2 (r_2, in), B_2 (out, r_2), ... by these names, as many pairs as there
    are weights and scales -> delta (out, in). The pullback differentiates every factor. Raises TypeError and ValueError
    for what does not fit.
    """
    pairs = [(f"A_{i}", f"B_{i}") for i in range(1, len(weights) + 1)]
    if not pairs or len(scales) != len(pairs):
        raise ValueError(f"scales has {len(scales)} entries and weights {len(pairs)}, expected as many and at least 1")
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

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        grads = {}
        for share, (A, B) in zip(shares, pairs, strict=True):
            if A in wrt:
                grads[A] = share * (factors[B].T @ dy)
            if B in wrt:
                grads[B] = share * (dy @ factors[A].T)
        return grads

    return delta, Pullback(backward, delta, inputs=tuple(names))
