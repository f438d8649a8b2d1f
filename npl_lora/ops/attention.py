"""attention: scaled dot-product attention with grouped key/value heads.

    Z = (s q) k^T         (..., H, T, S)      the scores; s = 1 / sqrt(D) unless given
    Z' = c tanh(Z / c)    (..., H, T, S)      the scores within +-c, if there is a softcap c; else Z
    P = softmax(Z')       (..., H, T, S)      over the keys that are visible
    y = P v               (..., H, T, Dv)

There are H query heads and G key/value heads. Query head h uses key/value head h // (H / G), so consecutive heads share
one (as np.repeat lays them out, not np.tile). Query t is at position offset + t, and key j at position j. A row
that sees no key gives zeros, and passes back zeros.

Derivation. Take the lines from the last to the first. Each gives the gradients of its own inputs. To first order
the change of P v is δP v + P δv, and <P, Q R> = <P R^T, Q> = <Q^T P, R> moves the other factor to the left. rowsum is
the sum over the keys.

    1. y = P v.        δL = <dy, δP v> + <dy, P δv>          dP = dy v^T,      dv = P^T dy
    2. P = softmax(Z'). δP = P o (δZ' - rowsum(P o δZ'))     dZ' = P o (dP - rowsum(dP o P))     (see softmax.py)
    3. Z' = c tanh(Z / c). δZ' = (1 - (Z' / c)^2) o δZ       dZ = dZ' o (1 - (Z' / c)^2)         (see tanh.py)
    4. Z = (s q) k^T.  δL = <dZ, s δq k^T> + <dZ, s q δk^T>  dq = s dZ k,      dk = dZ^T (s q)

A key/value head that serves H / G query heads enters y through each of them, so its gradient is the sum over them.

Source: Vaswani et al., "Attention Is All You Need", 2017, equation 1; Ainslie et al., "GQA", 2023, for the groups;
Beltagy et al., "Longformer", 2020, for the window; Gemma Team, "Gemma 2", 2024, section 2, for the softcap.
"""

from __future__ import annotations

from ._interface import Array, Pullback
from .checks import check_bool, check_inputs, check_integer, check_number, check_positive
from .namespace import quotient
from .softmax import softmax


def attention(
    q: Array,  # (..., H, T, D)
    k: Array,  # (..., G, S, D), G divides H
    v: Array,  # (..., G, S, Dv)
    *,
    scale: float | None = None,  # the factor on q k^T, 1 / sqrt(D) unless given
    causal: bool = False,  # True: query t sees the keys j <= offset + t
    offset: int = 0,  # the position of the first query
    window: int | None = None,  # a query sees the keys closer than this
    key_mask: Array | None = None,  # (..., S), bool, True where a key may be seen
    softcap: float | None = None,  # the scores become softcap tanh(scores / softcap)
) -> tuple[Array, Pullback]:  # y (..., H, T, Dv)
    """y = softmax(scale q k^T) v over the visible keys.

    Shapes: q (..., H, T, D), k (..., G, S, D), v (..., G, S, Dv), key_mask (..., S) -> y (..., H, T, Dv).

    H is a multiple of G. scale is 1 / sqrt(D) unless given.
    causal: query t sees the keys j <= offset + t. With a cache of c past keys, offset = c.
    window: query t sees only keys at a distance |offset + t - j| < window.
    softcap: the scores are c tanh(scores / c) with c = softcap.
    The pullback differentiates q, k and v. Raises TypeError and ValueError for arguments that do not fit together.
    Derivation: at the top of npl_lora/ops/attention.py.
    """
    xp, n = check_inputs(
        q=(q, "... H T D"), k=(k, "... G S D"), v=(v, "... G S Dv"), key_mask=(key_mask, "... S", "bool or None")
    )
    if n["G"] == 0:
        raise ValueError("k has 0 heads, expected at least 1")
    if n["H"] % n["G"]:
        raise ValueError(f"q has {n['H']} heads, expected a multiple of k's {n['G']} heads")
    if n["D"] == 0:
        raise ValueError("q has heads of size 0, expected at least 1")
    check_bool("causal", causal)
    softcap = None if softcap is None else check_positive("softcap", softcap)
    scale = quotient(xp, 1, n["D"]) ** 0.5 if scale is None else check_number("scale", scale)
    visible = _visible(xp, n, causal, check_integer("offset", offset), window, key_mask)

    grouped = (*n["..."], n["G"], n["H"] // n["G"], n["T"])
    sq = scale * xp.reshape(q, (*grouped, n["D"]))  # (..., G, H/G, T, D)
    kg = xp.expand_dims(k, axis=-3)  # (..., G, 1, S, D)
    vg = xp.expand_dims(v, axis=-3)
    Z, slope = sq @ kg.mT, None  # (..., G, H/G, T, S), as P and their gradients
    if softcap is not None:
        Z = softcap * xp.tanh(Z / softcap)  # Z' from here on
        slope = 1.0 - (Z / softcap) * (Z / softcap)
    P, softmax_pullback = softmax(Z, mask=visible)
    y = xp.reshape(P @ vg, (*n["..."], n["H"], n["T"], n["Dv"]))

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        dyg = xp.reshape(dy, (*grouped, n["Dv"]))
        grads = {}
        if "v" in wrt:
            grads["v"] = xp.sum(P.mT @ dyg, axis=-3)  # forward was: y = P v
        if wrt & {"q", "k"}:
            dP = dyg @ vg.mT  # forward was: y = P v
            dZ = softmax_pullback(dP)["x"]  # forward was: P = softmax(Z')
            if slope is not None:
                dZ = dZ * slope  # forward was: Z' = c tanh(Z / c)
        if "q" in wrt:
            dq = scale * (dZ @ kg)  # forward was: Z = (s q) k^T
            grads["q"] = xp.reshape(dq, (*n["..."], n["H"], n["T"], n["D"]))
        if "k" in wrt:
            grads["k"] = xp.sum(dZ.mT @ sq, axis=-3)  # forward was: Z = (s q) k^T
        return grads

    return y, Pullback(backward, y, inputs=("q", "k", "v"))


def _visible(
    xp: Array, n: dict[str, int], causal: bool, offset: int, window: int | None, key_mask: Array | None
) -> Array | None:
    """Which query may see which key: bool, broadcastable to (..., G, H/G, T, S), or None when every key is visible."""
    query = xp.expand_dims(xp.arange(n["T"]) + offset, axis=1)
    key = xp.expand_dims(xp.arange(n["S"]), axis=0)
    rules = []
    if causal:
        rules.append(key <= query)
    if window is not None:
        check_integer("window", window, 1)
        rules.append((key > query - window) & (key < query + window))
    if key_mask is not None:
        rules.append(key_mask[..., None, None, None, :])
    visible = None
    for rule in rules:
        visible = rule if visible is None else visible & rule
    return visible
