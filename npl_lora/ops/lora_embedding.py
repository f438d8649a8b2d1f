"""lora_embedding: an embedding with LoRA.

    h  = (A^T)[ids]             (..., r)      row ids_n of A^T, which is column ids_n of A
    hd = h o mask               (..., r)      what dropout lets through; without a mask hd = h
    y  = E[ids] + s hd B^T      (..., D)

E (V, D) is frozen, A (r, V) holds a column for each token, and B is (D, r). The op is lora_linear with a one-hot x.

Derivation. Change one input by a small δ and read its gradient off δL = <dy, δy>.

    1. B.    δL = <dy, s hd δB^T> = <s dy^T hd, δB>           dB = s dy^T hd
    2. hd.   δL = <dy, s δhd B^T> = <s dy B, δhd>             dhd = s dy B
    3. h.    δhd = δh o mask                                  dh = dhd o mask
    4. A.    h_nk = A_k,ids_n, so δL = sum_nk dh_nk δA_k,ids_n
                                                              dA_kv = sum_n [ids_n = v] dh_nk
    5. E.    as in embedding.py                               dE_vd = sum_n [ids_n = v] dy_nd

Repeated ids accumulate. The column of the padding token is zero in dA (and its row in dE), by convention, as in torch's
embedding. Its tokens still count in y and in dB.

Source: Hu et al. 2021 for the update; the orientation of A and B is PEFT's (lora_embedding_A, lora_embedding_B).
"""

from __future__ import annotations

from ._interface import Array, Pullback
from .checks import check_ids, check_inputs, check_integer, check_number
from .namespace import flat, rows, scatter_add, take_rows, zero_row


def lora_embedding(
    ids: Array,  # (...), integers in 0 <= id < V
    E: Array,  # (V, D), frozen
    A: Array,  # (r, V)
    B: Array,  # (D, r)
    *,
    scale: float,  # s, as in lora_linear
    padding_idx: int | None = None,  # the token whose column of dA is zero
    mask: Array | None = None,  # (..., r), dropout's: 0 or 1 / (1 - p)
) -> tuple[Array, Pullback]:  # y (..., D)
    """y = E[ids] + scale ((A^T)[ids] o mask) B^T.

    Shapes: ids (...), E (V, D) frozen, A (r, V), B (D, r), mask (..., r) -> y (..., D), in the tables' dtype.

    padding_idx: a token whose column of dA, and row of dE, is zero.
    mask: a dropout mask, already divided by 1 - p; a constant in the backward.
    The pullback differentiates A and B, and E when `wrt` names it.
    Raises TypeError and ValueError for arguments that do not fit together, and for ids outside the table.
    Derivation: at the top of npl_lora/ops/lora_embedding.py.
    """
    tables = dict(E=(E, "V D"), A=(A, "r V"), B=(B, "D r"))
    xp, n = check_inputs(ids=(ids, "...", "integer"), **tables, mask=(mask, "... r", "number or None"))
    scale = check_number("scale", scale)
    check_ids("ids", ids, n["V"], xp)
    if padding_idx is not None:
        check_integer("padding_idx", padding_idx, 0, n["V"])
    h = take_rows(A.T, ids)
    hd = h if mask is None else h * mask
    y = take_rows(E, ids) + scale * (hd @ B.T)

    def sum_by_id(d: Array) -> Array:
        """Row v is the sum of d over the places where token v stands; zero for the padding token."""
        return zero_row(scatter_add(rows(d), flat(ids), n["V"]), padding_idx)

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        grads = {}
        if "A" in wrt:
            dhd = scale * (dy @ B)  # forward was: y = E[ids] + s hd B^T
            dh = dhd if mask is None else dhd * mask  # forward was: hd = h o mask
            grads["A"] = sum_by_id(dh).T  # forward was: h = (A^T)[ids]
        if "B" in wrt:
            grads["B"] = scale * (rows(dy).T @ rows(hd))  # forward was: y = E[ids] + s hd B^T
        if "E" in wrt:
            grads["E"] = sum_by_id(dy)  # forward was: y = E[ids] + s hd B^T
        return grads

    return y, Pullback(backward, y, inputs=("A", "B", "E"), frozen=("E",))
