"""lora_embedding: y = E[ids] + s (A^T)[ids] B^T.

E (V, D) is frozen, A (r, V) holds a column for each token, B (D, r). It is lora_linear with a one-hot x:

    h = (A^T)[ids]              (..., r)      row ids_n of A^T, which is column ids_n of A
    y = E[ids] + s h~ B^T       (..., D)      h~ = h o mask: what dropout lets through

Derivation. As in lora_linear, dB = s dy^T h~ and dh = mask o (s dy B). A enters through h_nk = A_k,ids_n, so

    dL/dA_kv = sum_n [ids_n = v] dh_nk       repeated ids accumulate

The column of the padding token is zero in dA, by convention (torch's embedding): its tokens still count in y and in dB.

Source: Hu et al. 2021 for the update; the orientation of A and B is PEFT's (lora_embedding_A, lora_embedding_B).
"""

from ._interface import Array, Pullback
from .checks import check_ids, check_inputs, check_integer, check_number
from .namespace import flat, rows, scatter_add, take_rows, zero_row


def lora_embedding(
    ids: Array,
    E: Array,
    A: Array,
    B: Array,
    *,
    scale: float,
    padding_idx: int | None = None,
    mask: Array | None = None,
) -> tuple[Array, Pullback]:
    """y = E[ids] + scale ((A^T)[ids] o mask) B^T.

    ids (...) integers in 0 <= id < V, E (V, D), A (r, V), B (D, r) -> y (..., D), in the tables' dtype.
    padding_idx: a token whose column of dA (and row of dE) is zero. mask (..., r) or None: a dropout mask that is
    already divided by 1 - p, a constant in the backward.
    The pullback differentiates A and B, and E when asked. Raises ValueError for ids outside the table.
    """
    tables = dict(E=(E, "V D"), A=(A, "r V"), B=(B, "D r"))
    xp, n = check_inputs(ids=(ids, "...", "integer"), **tables, mask=(mask, "... r", "number or None"))
    scale = check_number("scale", scale)
    check_ids("ids", ids, n["V"], xp)
    if padding_idx is not None:
        check_integer("padding_idx", padding_idx, 0, n["V"])
    h = take_rows(A.T, ids)
    h = h if mask is None else h * mask
    y = take_rows(E, ids) + scale * (h @ B.T)

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        grads = {}
        if "A" in wrt:
            dh = scale * (dy @ B)  # forward was: y = ... + scale (h B^T)
            dh = dh if mask is None else dh * mask
            grads["A"] = zero_row(scatter_add(rows(dh), flat(ids), n["V"]), padding_idx).T
        if "B" in wrt:
            grads["B"] = scale * (rows(dy).T @ rows(h))
        if "E" in wrt:
            grads["E"] = zero_row(scatter_add(rows(dy), flat(ids), n["V"]), padding_idx)
        return grads

    return y, Pullback(backward, y, inputs=("A", "B", "E"), frozen=("E",))
