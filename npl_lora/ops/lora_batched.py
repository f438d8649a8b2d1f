"""lora_batched: one linear layer, and a batch whose rows each have an adapter of their own, or none.

    y_n = x_n W^T + b + s_k (x_n A_k^T) B_k^T     (..., out)     row n with the adapter k = ids_n
    y_n = x_n W^T + b                             (..., out)     row n without one, ids_n = -1

A (K, R, in) and B (K, out, R) hold K adapters, padded to one size. Adapter k has its own rank r_k <= R and its own
scale s_k: A_k is the first r_k rows of A[k], and B_k the first r_k columns of B[k]. The rest is padding. Whatever it
holds, it is not read, and its gradient is 0.

The rows with one adapter form a group, wherever they stand in the batch, and a group is an ordinary lora_linear:

    x_k = the rows of x whose id is k
    y_k = lora_linear(x_k, W, A_k, B_k), or linear(x_k, W) for k = -1
    y = the rows of all y_k, back in their places

Derivation. No row of y depends on another row of x, and no adapter is in two groups:

    1. x.    dy_k = the rows of dy whose id is k, and dx_k is what its group gives; the rows of all dx_k go back in
             their places.
    2. A, B. dA[k] and dB[k] are those of group k: sums over its rows alone. Without a row they are 0.
    3. W, b. They are in every group, so their gradients are sums over the groups.

Sources: Chen et al., "Punica: Multi-Tenant LoRA Serving", 2023, section 4; Sheng et al., "S-LoRA: Serving Thousands of
Concurrent LoRA Adapters", 2023, section 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import _building_blocks
from ._interface import Array, Pullback
from .checks import check_ids, check_inputs, check_integer, check_number


def lora_batched(
    x: Array,  # (N, ..., in)
    W: Array,  # (out, in), frozen
    A: Array,  # (K, R, in)
    B: Array,  # (K, out, R)
    ids: Array,  # (N,), integers: the adapter of each row, or -1 for none
    *,
    ranks: Sequence[int],  # r_k, one for each adapter
    scales: Sequence[float],  # s_k, one for each adapter
    b: Array | None = None,  # (out,), frozen
    ops: Any = None,  # the linear and lora_linear to use
) -> tuple[Array, Pullback]:  # y (N, ..., out)
    """y_n = x_n W^T + b + scales[k] (x_n A_k^T) B_k^T with k = ids[n], and without the last term where ids[n] is -1.

    Shapes: x (N, ..., in), W (out, in) frozen, A (K, R, in), B (K, out, R), ids (N,), b (out,) frozen -> y (N, ...,
    out).

    A_k is A[k, : ranks[k]], and B_k is B[k, :, : ranks[k]]. What is beyond them is not read; its gradient is 0.
    ops: the linear and lora_linear that this op is composed of, npl_lora.ops's own unless given.
    The pullback differentiates x, A and B, and W and b when `wrt` names them. y has the inputs' dtype.
    Raises TypeError and ValueError for arguments that do not fit together, and for ids without an adapter.
    Derivation: at the top of npl_lora/ops/lora_batched.py.
    """
    arrays = dict(A=(A, "K R in"), B=(B, "K out R"), ids=(ids, "N", "integer"), b=(b, "out", "number or None"))
    xp, n = check_inputs(W=(W, "out in"), x=(x, "... in"), **arrays)
    N, K = n["N"], n["K"]
    if x.ndim < 2 or x.shape[0] != N:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected (N, ..., in) = ({N}, ..., {n['in']})")
    if K == 0:
        raise ValueError("A has 0 adapters, expected at least 1")
    check_ids("ids", ids, K, xp, least=-1)
    ranks = [check_integer(f"ranks[{k}]", r, 1, n["R"] + 1) for k, r in enumerate(_one_each("ranks", ranks, K))]
    scales = [check_number(f"scales[{k}]", s) for k, s in enumerate(_one_each("scales", scales, K))]
    ops = _building_blocks if ops is None else ops
    places = _places(ids, K)
    groups: dict[int, Pullback] = {}
    values = []
    for k, rows in places.items():
        x_k = _taken(x, rows)
        if k < 0:
            y_k, groups[k] = ops.linear(x_k, W, b)
        else:
            r = ranks[k]
            y_k, groups[k] = ops.lora_linear(x_k, W, A[k, :r, :], B[k, :, :r], scale=scales[k], b=b)
        values.append(y_k)
    y = _back_in_place(values, places)

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        # forward was: y_k = lora_linear(x_k, W, A_k, B_k), or linear(x_k, W) for k = -1
        of = {k: group(_taken(dy, places[k]), wrt=wrt & set(group.inputs)) for k, group in groups.items()}
        grads = {}
        if "x" in wrt:
            # forward was: x_k = the rows of x whose id is k
            # forward was: y = the rows of all y_k, back in their places
            grads["x"] = _back_in_place([of[k]["x"] for k in places], places)
        for name, stacked, axis in (("A", A, 0), ("B", B, 1)):
            if name in wrt:
                # forward was: y_k = lora_linear(x_k, W, A_k, B_k)
                grads[name] = xp.stack([_padded(of.get(k, {}).get(name), stacked[k, ...], axis) for k in range(K)])
        for name in wrt & {"W", "b"}:
            grads[name] = sum(of[k][name] for k in places)  # forward was: y_k = lora_linear(x_k, W, A_k, B_k)
        return grads

    frozen = ("W",) if b is None else ("W", "b")
    return y, Pullback(backward, y, inputs=("x", "A", "B", *frozen), frozen=frozen)


def _one_each(name: str, numbers: Sequence[Any], K: int) -> Sequence[Any]:
    if len(numbers) != K:
        raise ValueError(f"{name} has length {len(numbers)}, expected {K}, one for each adapter")
    return numbers


def _places(ids: Array, K: int) -> dict[int, list[int]]:
    """{k: the rows whose id is k}: -1 always, so that there is a group, and the adapters that have a row."""
    found: dict[int, list[int]] = {k: [] for k in range(-1, K)}
    for row in range(ids.shape[0]):
        found[int(ids[row])].append(row)
    return {k: rows for k, rows in found.items() if rows or k < 0}


def _taken(t: Array, rows: list[int]) -> Array:
    """These rows of t (N, ...)."""
    xp = t.__array_namespace__()
    return xp.take(t, xp.asarray(rows, dtype=xp.int64), axis=0)


def _back_in_place(groups: list[Array], places: dict[int, list[int]]) -> Array:
    """The rows of the groups, each in the place that it was taken from."""
    order = [row for rows in places.values() for row in rows]
    together = groups[0].__array_namespace__().concat(groups, axis=0)
    return _taken(together, sorted(range(len(order)), key=order.__getitem__))


def _padded(gradient: Array | None, factor: Array, axis: int) -> Array:
    """The gradient of one adapter's factor, filled up with zeros along the axis of the rank; None is all zeros."""
    xp = factor.__array_namespace__()
    if gradient is None:
        return xp.zeros_like(factor)
    r = gradient.shape[axis]
    padding = factor[r:, :] if axis == 0 else factor[:, r:]
    return xp.concat((gradient, xp.zeros_like(padding)), axis=axis)
