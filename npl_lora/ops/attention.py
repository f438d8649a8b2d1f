"""attention: scaled dot-product attention with grouped key/value heads.

    S = (s q) k^T               (..., H, T, S)     s = 1 / sqrt(D) unless given
    P = softmax(S) over the visible keys
    y = P v                     (..., H, T, Dv)

Head h uses key/value head h // (H / G): consecutive heads share one (repeat, not tile). Query t stands at position
offset + t and key j at position j. A row that may see no key gives zeros, and passes back zeros.

Derivation. With dL = <dy, change of y>, one factor at a time, from the last line up:

    1. y = P v:       dP = dy v^T,  dv = P^T dy
    2. softmax:       dS = P o (dP - rowsum(dP o P))
    3. S = (s q) k^T: dq = s dS k,  dk = dS^T (s q)

A key/value head that serves H / G heads gets the sum of their gradients.

Source: Vaswani et al., "Attention Is All You Need", 2017, equation 1; Ainslie et al., "GQA", 2023, for the groups;
Beltagy et al., "Longformer", 2020, for the window.
"""

from ._interface import Array, Pullback
from .checks import check_inputs, check_integer, check_number
from .namespace import quotient
from .softmax import softmax


def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: float | None = None,
    causal: bool = False,
    offset: int = 0,
    window: int | None = None,
    key_mask: Array | None = None,
) -> tuple[Array, Pullback]:
    """y = softmax(scale q k^T) v over the visible keys.

    q (..., H, T, D), k (..., G, S, D), v (..., G, S, Dv), with G dividing H -> y (..., H, T, Dv).
    scale: 1 / sqrt(D) unless given. causal: query t sees keys j <= offset + t; with a cache of c past keys, offset = c.
    window: keys at a distance |offset + t - j| < window only. key_mask (..., S) bool: True where a key may be seen.
    The pullback differentiates q, k and v. Raises TypeError and ValueError for what does not fit.
    """
    xp, n = check_inputs(
        q=(q, "... H T D"), k=(k, "... G S D"), v=(v, "... G S Dv"), key_mask=(key_mask, "... S", "bool or None")
    )
    if n["G"] == 0 or n["H"] % n["G"]:
        raise ValueError(f"q has {n['H']} heads and k has {n['G']}, expected a multiple")
    scale = quotient(xp, 1, n["D"]) ** 0.5 if scale is None else check_number("scale", scale)
    visible = _visible(xp, n, causal, check_integer("offset", offset), window, key_mask)

    grouped = (*n["..."], n["G"], n["H"] // n["G"], n["T"])
    sq = scale * xp.reshape(q, (*grouped, n["D"]))  # (..., G, H/G, T, D)
    kg = xp.expand_dims(k, axis=-3)  # (..., G, 1, S, D)
    vg = xp.expand_dims(v, axis=-3)
    P, softmax_pullback = softmax(sq @ kg.mT, mask=visible)
    y = xp.reshape(P @ vg, (*n["..."], n["H"], n["T"], n["Dv"]))

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        dyg = xp.reshape(dy, (*grouped, n["Dv"]))
        grads = {}
        if "v" in wrt:
            grads["v"] = xp.sum(P.mT @ dyg, axis=-3)  # forward was: y = P v
        if wrt & {"q", "k"}:
            dS = softmax_pullback(dyg @ vg.mT)["x"]  # forward was: P = softmax((scale q) k^T)
        if "q" in wrt:
            grads["q"] = xp.reshape(scale * (dS @ kg), (*n["..."], n["H"], n["T"], n["D"]))
        if "k" in wrt:
            grads["k"] = xp.sum(dS.mT @ sq, axis=-3)
        return grads

    return y, Pullback(backward, y, inputs=("q", "k", "v"))


def _visible(
    xp: Array, n: dict[str, int], causal: bool, offset: int, window: int | None, key_mask: Array | None
) -> Array | None:
    """Which query may see which key, bool, broadcastable to (..., G, H/G, T, S), or None when all may."""
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
