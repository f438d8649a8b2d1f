"""lora_attention: multi-head self-attention with LoRA on the q, k, v and o projections.

    q, k, v = L_q(x), L_k(x), L_v(x)      each cut into heads of size D
    q, k = rope(q), rope(k)               where a theta is given
    z = attention(q, k, v)                the heads side by side again
    y = L_o(z)

    L_n(x) = x W_n^T + s (x A_n^T) B_n^T  a lora_linear for each n = q, k, v, o; W_n is Wq, Wk, Wv or Wo

Head h uses the rows hD ... hD + D - 1 of its projection, and the same columns of Wo.

Derivation. The op is a composition, so its backward calls the pullbacks of its stages in reverse order (see
compose.py):

    1. y = L_o(z).              dz = dy Wo + s (dy B_o) A_o
    2. z = attention(q, k, v).  dq, dk and dv as in attention.py
    3. q, k = rope(q), rope(k). dq and dk are rotated back (rope.py)
    4. q, k, v = L_n(x).        dx = the sum over n = q, k, v of dn W_n + s (dn B_n) A_n

A_n and B_n get their gradients as in lora_linear.py. x enters three projections, so dx has three terms.

Source: Hu et al. 2021, section 4.2; Vaswani et al. 2017, section 3.2.2; Su et al. 2021 for rope.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from . import _building_blocks
from ._interface import Array, Pullback
from .checks import check_inputs, check_integer, check_number, check_positive
from .compose import Op, Stage, branch, chain, join_heads, renamed, split_heads


def lora_attention(
    x: Array,  # (..., T, C)
    Wq: Array,  # (H D, C), frozen
    Wk: Array,  # (G D, C), frozen
    Wv: Array,  # (G D, C), frozen
    Wo: Array,  # (C, H D), frozen
    A_q: Array,  # (r, C)
    B_q: Array,  # (H D, r)
    A_k: Array,  # (r, C)
    B_k: Array,  # (G D, r)
    A_v: Array,  # (r, C)
    B_v: Array,  # (G D, r)
    A_o: Array,  # (r, H D)
    B_o: Array,  # (C, r)
    *,
    scale: float,  # LoRA's s; the scores are q k^T / sqrt(D)
    n_heads: int,  # H
    n_kv_heads: int,  # G, divides H
    causal: bool = False,  # True: position t sees the positions up to t
    rope_theta: float | None = None,  # the base of rope, None for no rope
    key_mask: Array | None = None,  # (..., T), bool, True where a key may be seen
    ops: Any = None,  # the lora_linear, rope and attention to use
) -> tuple[Array, Pullback]:  # y (..., T, C)
    """y = L_o(attention(L_q(x), L_k(x), L_v(x))), with L_n(z) = z W_n^T + scale (z A_n^T) B_n^T.

    Shapes: x (..., T, C), key_mask (..., T); Wq (H D, C), Wk (G D, C), Wv (G D, C) and Wo (C, H D) frozen;
        A_q (r, C), B_q (H D, r), A_k (r, C), B_k (G D, r), A_v (r, C), B_v (G D, r), A_o (r, H D), B_o (C, r)
        -> y (..., T, C).

    scale is LoRA's; the scores are q k^T / sqrt(D). rope_theta: the base of rope, None for no rope. With rope, D is
    even. Positions count from 0. ops: the lora_linear, rope and attention that this op is composed of, npl_lora.ops's
    own unless given.
    The pullback differentiates x and the factors, and the weights when `wrt` names them.
    Raises TypeError and ValueError for arguments that do not fit together.
    Derivation: at the top of npl_lora/ops/lora_attention.py.
    """
    arrays = dict(Wq=Wq, Wk=Wk, Wv=Wv, Wo=Wo, A_q=A_q, B_q=B_q, A_k=A_k, B_k=B_k, A_v=A_v, B_v=B_v, A_o=A_o, B_o=B_o)
    shapes = dict(Wq="HD C", Wk="GD C", Wv="GD C", Wo="C HD", A_q="r C", B_q="HD r", A_k="r C", B_k="GD r")
    shapes |= dict(A_v="r C", B_v="GD r", A_o="r HD", B_o="C r")
    _, sizes = check_inputs(
        x=(x, "... T C"),
        key_mask=(key_mask, "... T", "bool or None"),
        **{name: (arrays[name], shapes[name]) for name in arrays},
    )
    D = _head_size(sizes["HD"], sizes["GD"], n_heads, n_kv_heads)
    scale = check_number("scale", scale)
    ops = _building_blocks if ops is None else ops

    def L(n: str) -> Stage:
        layer = partial(ops.lora_linear, W=arrays[f"W{n}"], A=arrays[f"A_{n}"], B=arrays[f"B_{n}"], scale=scale)
        return renamed(layer, {"W": f"W{n}", "A": f"A_{n}", "B": f"B_{n}"})

    attend: Op = partial(ops.attention, causal=causal, key_mask=key_mask)
    if rope_theta is not None:
        check_positive("rope_theta", rope_theta)
        attend = with_rope(attend, partial(ops.rope, theta=rope_theta))
    return attention_block(L, attend, D)(x)


def attention_block(L: Callable[[str], Stage], attend: Op, head_size: int) -> Stage:
    """y = L_o(attend(L_q(x), L_k(x), L_v(x))), for whatever L(n) is the projection n."""

    def heads(n: str) -> Stage:  # (..., T, C) -> (..., T, H D) -> (..., H, T, D); G heads for k and v
        return chain(L(n), split_heads(head_size))

    # attend gives (..., H, T, D), join_heads (..., T, H D), L("o") (..., T, C).
    return chain(branch(attend, q=heads("q"), k=heads("k"), v=heads("v")), join_heads, L("o"))


def with_rope(attention: Op, rope: Stage) -> Op:
    """The same attention, of q and k rotated by rope."""

    def forward(q: Array, k: Array, v: Array) -> tuple[Array, Pullback]:
        q, q_pullback = rope(q)
        k, k_pullback = rope(k)
        y, pullback = attention(q, k, v)

        def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
            grads = pullback(dy, wrt=wrt)  # forward was: attention(q, k, v)
            if "q" in wrt:
                grads["q"] = q_pullback(grads["q"])["x"]  # forward was: q, k = rope(q), rope(k)
            if "k" in wrt:
                grads["k"] = k_pullback(grads["k"])["x"]  # forward was: q, k = rope(q), rope(k)
            return grads

        return y, Pullback(backward, y, ("q", "k", "v"))

    return forward


def _head_size(q_rows: int, k_rows: int, n_heads: int, n_kv_heads: int) -> int:
    """D, for numbers of rows and heads that fit together."""
    check_integer("n_heads", n_heads, 1)
    check_integer("n_kv_heads", n_kv_heads, 1)
    if q_rows % n_heads:
        raise ValueError(f"Wq has {q_rows} rows, expected a multiple of n_heads = {n_heads}")
    D = q_rows // n_heads
    if k_rows != n_kv_heads * D:
        expected = f"n_kv_heads * D = {n_kv_heads} * {D} = {n_kv_heads * D}"
        raise ValueError(f"Wk has {k_rows} rows, expected {expected}; D = {q_rows} / {n_heads} is Wq's rows / n_heads")
    if n_heads % n_kv_heads:
        raise ValueError(f"n_heads is {n_heads}, expected a multiple of n_kv_heads = {n_kv_heads}")
    return D
