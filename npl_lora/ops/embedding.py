"""embedding: y = E[ids], a row of the table for each token.

Derivation. y_nd = sum_v [ids_n = v] E_vd is linear in E, with a one-hot matrix in place of x. So

    dL/dE_vd = sum_n [ids_n = v] dy_nd

the sum over every place where token v stands. Repeated ids accumulate; writing instead of adding keeps only the last.
The row of the padding token gets no gradient, by convention (torch.nn.Embedding): it is meant to stay what it is.
"""

from ._interface import Array, Pullback
from .checks import check_ids, check_inputs, check_integer
from .namespace import flat, rows, scatter_add, take_rows, zero_row


def embedding(ids: Array, E: Array, *, padding_idx: int | None = None) -> tuple[Array, Pullback]:
    """y = E[ids].

    ids (...) integers in 0 <= id < V, E (V, D) -> y (..., D), in E's dtype. padding_idx: a row whose gradient is zero.
    The pullback differentiates E. Raises ValueError for ids outside the table.
    """
    xp, n = check_inputs(ids=(ids, "...", "integer"), E=(E, "V D"))
    check_ids("ids", ids, n["V"], xp)
    if padding_idx is not None:
        check_integer("padding_idx", padding_idx, 0, n["V"])
    y = take_rows(E, ids)

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        if "E" not in wrt:
            return {}
        return {"E": zero_row(scatter_add(rows(dy), flat(ids), n["V"]), padding_idx)}

    return y, Pullback(backward, y, inputs=("E",))
