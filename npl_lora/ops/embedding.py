"""embedding: y = E[ids], a row of the table for each token.

Derivation. Written with a one-hot matrix in the place of x, the op is linear in E:

    y_nd = sum_v [ids_n = v] E_vd          so          dE_vd = sum_n [ids_n = v] dy_nd

Row v of dE is the sum of dy over every place where token v stands. Repeated ids must accumulate: code that writes
instead of adding keeps only the last one.

The row of the padding token gets no gradient. This is a convention (torch.nn.Embedding has it too): the row is not
meant to change.
"""

from __future__ import annotations

from ._interface import Array, Pullback
from .checks import check_ids, check_inputs, check_integer
from .namespace import flat, rows, scatter_add, take_rows, zero_row


def embedding(
    ids: Array,  # (...), integers in 0 <= id < V
    E: Array,  # (V, D)
    *,
    padding_idx: int | None = None,  # the token whose row of dE is zero
) -> tuple[Array, Pullback]:  # y (..., D)
    """y = E[ids].

    Shapes: ids (...), E (V, D) -> y (..., D), in E's dtype.

    padding_idx: a token whose row gets a zero gradient.
    The pullback differentiates E. Raises ValueError for ids outside the table.
    Derivation: at the top of npl_lora/ops/embedding.py.
    """
    xp, n = check_inputs(ids=(ids, "...", "integer"), E=(E, "V D"))
    check_ids("ids", ids, n["V"], xp)
    if padding_idx is not None:
        check_integer("padding_idx", padding_idx, 0, n["V"])
    y = take_rows(E, ids)

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        if "E" not in wrt:
            return {}
        return {"E": zero_row(scatter_add(rows(dy), flat(ids), n["V"]), padding_idx)}  # forward was: y = E[ids]

    return y, Pullback(backward, y, inputs=("E",))
