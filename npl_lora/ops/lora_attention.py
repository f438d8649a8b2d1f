"""lora_attention: multi-head self-attention with LoRA on the q, k, v and o projections.

    q, k, v = L_q(x), L_k(x), L_v(x)      cut into heads of size D, turned by rope (q and k)
    y       = L_o(heads side by side),    L_n(z) = z W_n^T + s (z A_n^T) B_n^T

Head h owns rows hD ... hD + D - 1 of its projection and the same columns of Wo.

Derivation. A composition: pullbacks in reverse order. x feeds three projections, so its gradient is the sum of three.

Source: Hu et al. 2021, section 4.2; Vaswani et al. 2017, section 3.2.2; Su et al. 2021 for rope.
"""

from functools import partial
from typing import Any

from . import _building_blocks
from ._interface import Array, Pullback
from .checks import check_inputs, check_integer, check_number
from .compose import Stage, branch, chain, join_heads, renamed, split_heads


def lora_attention(
    x: Array,
    Wq: Array,
    Wk: Array,
    Wv: Array,
    Wo: Array,
    A_q: Array,
    B_q: Array,
    A_k: Array,
    B_k: Array,
    A_v: Array,
    B_v: Array,
    A_o: Array,
    B_o: Array,
    *,
    scale: float,
    n_heads: int,
    n_kv_heads: int,
    causal: bool = False,
    rope_theta: float | None = None,
    key_mask: Array | None = None,
    ops: Any = _building_blocks,
) -> tuple[Array, Pullback]:
    """y = L_o(attention(L_q(x), L_k(x), L_v(x))).

    x (..., T, C), Wq (H D, C), Wk and Wv (G D, C), Wo (C, H D), A_n (r, in of W_n), B_n (out of W_n, r),
    key_mask (..., T) bool, True where a key may be seen -> y (..., T, C).
    scale is LoRA's; scores are q k / sqrt(D). rope_theta: the base of rope, None for no rope. Positions run from 0.
    ops: the lora_linear, rope and attention that it is made of.
    The pullback differentiates x and the factors, and the weights when asked.
    """
    arrays = dict(Wq=Wq, Wk=Wk, Wv=Wv, Wo=Wo, A_q=A_q, B_q=B_q, A_k=A_k, B_k=B_k, A_v=A_v, B_v=B_v, A_o=A_o, B_o=B_o)
    shapes = dict(Wq="HD C", Wk="GD C", Wv="GD C", Wo="C HD", A_q="r C", B_q="HD r", A_k="r C", B_k="GD r")
    shapes |= dict(A_v="r C", B_v="GD r", A_o="r HD", B_o="C r")
    _, n = check_inputs(
        x=(x, "... T C"),
        key_mask=(key_mask, "... T", "bool or None"),
        **{name: (arrays[name], shapes[name]) for name in arrays},
    )
    check_integer("n_heads", n_heads, 1)
    check_integer("n_kv_heads", n_kv_heads, 1)
    if n["HD"] % n_heads:
        raise ValueError(f"Wq has {n['HD']} rows, expected a multiple of n_heads = {n_heads}")
    D = n["HD"] // n_heads
    if n["GD"] != n_kv_heads * D:
        raise ValueError(f"Wk has {n['GD']} rows, expected n_kv_heads * D = {n_kv_heads} * {D}")
    scale = check_number("scale", scale)

    def L(n: str) -> Stage:
        layer = partial(ops.lora_linear, W=arrays[f"W{n}"], A=arrays[f"A_{n}"], B=arrays[f"B_{n}"], scale=scale)
        return renamed(layer, {"W": f"W{n}", "A": f"A_{n}", "B": f"B_{n}"})

    def heads(n: str) -> Stage:
        turned = [] if rope_theta is None or n == "v" else [partial(ops.rope, theta=rope_theta)]
        return chain(L(n), split_heads(D), *turned)

    attend = partial(ops.attention, causal=causal, key_mask=key_mask)
    return chain(branch(attend, q=heads("q"), k=heads("k"), v=heads("v")), join_heads, L("o"))(x)
