"""The ops once more in plain NumPy, where every term can be touched: tap(name, term) -> the term or another.

    op(tap, arguments of npl_lora's op) -> y, pullback

edits.py changes one term of one of them. test_reasons.py holds them against npl_lora's own.
"""

import numpy as np

from npl_lora.ops import Pullback
from npl_lora.ops import glu as right_glu


def rows(t):
    return t.reshape(-1, t.shape[-1])


def lora_linear(tap, x, W, A, B, *, scale, b=None, mask=None):
    drop = lambda t: t if mask is None else t * mask  # noqa: E731
    xd = tap("xd", drop(x))
    h = tap("h", xd @ A.T)
    y = tap("base", x @ W.T) + tap("low", scale * (h @ B.T))

    def backward(dy, wrt):
        dh = tap("dh", scale * (dy @ B))
        return {
            "x": tap("dbase", dy @ W) + drop(tap("dxd", dh @ A)),
            "A": rows(dh).T @ rows(xd),
            "B": scale * (rows(dy).T @ rows(h)),
            "W": rows(dy).T @ rows(x),
        }

    return y if b is None else y + b, Pullback(backward, y, ("x", "A", "B", "W"), ("W",))


def lora_embedding(tap, ids, E, A, B, *, scale, padding_idx=None, mask=None):
    drop = lambda t: t if mask is None else t * mask  # noqa: E731
    h = tap("h", drop(A.T[ids]))
    y = tap("base", E[ids]) + tap("low", scale * (h @ B.T))

    def backward(dy, wrt):
        dh = tap("dh", drop(scale * (dy @ B)))
        dA = np.zeros_like(A.T)
        np.add.at(dA, ids.reshape(-1), rows(dh))
        if padding_idx is not None:
            dA[padding_idx] = 0
        return {"A": dA.T, "B": scale * (rows(dy).T @ rows(h))}

    return y, Pullback(backward, y, ("A", "B"))


def dora_linear(tap, x, W, A, B, m, *, scale, b=None, n=None):
    V = tap("V", W + scale * (B @ A))
    n = tap("n", np.sqrt(np.sum(V * V, axis=1)) if n is None else n)
    c = tap("c", m / n)
    z, linear = lora_linear(tap, x, W, A, B, scale=scale)
    z = tap("z", z)

    def backward(dy, wrt):
        grads = linear(tap("dz", c * dy), wrt=("x", "A", "B"))
        return {**grads, "m": tap("dc", np.sum(rows(dy * z), axis=0)) / n}

    y = c * z
    return y if b is None else y + b, Pullback(backward, y, ("x", "A", "B", "m"))


def attention(tap, q, k, v, *, scale=None, causal=False, offset=0, window=None, key_mask=None, softcap=None):
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    group = q.shape[-3] // k.shape[-3]
    kh, vh = tap("k_heads", np.repeat(k, group, axis=-3)), tap("v_heads", np.repeat(v, group, axis=-3))
    visible = np.tri(q.shape[-2], k.shape[-2], dtype=bool) if causal else np.ones((q.shape[-2], k.shape[-2]), bool)
    if key_mask is not None:
        visible = visible & key_mask[..., None, None, :]
    S = tap("scores", scale * (q @ kh.mT))
    top = np.max(np.where(visible, S, -np.inf), axis=-1, keepdims=True)
    e = np.where(visible, np.exp(S - np.where(np.isfinite(top), top, 0)), 0).astype(q.dtype)
    total = np.sum(e, axis=-1, keepdims=True)
    P = tap("probabilities", e / np.where(total == 0, 1, total).astype(q.dtype))
    y = P @ vh
    summed = lambda t: t.reshape(*k.shape[:-2], group, *t.shape[-2:]).sum(axis=-3)  # noqa: E731

    def backward(dy, wrt):
        dP = tap("dP", dy @ vh.mT)
        dS = tap("dS", P * (dP - np.sum(P * dP, axis=-1, keepdims=True)))
        return {"q": scale * (dS @ kh), "k": summed(scale * (dS.mT @ q)), "v": summed(P.mT @ dy)}

    return y, Pullback(backward, y, ("q", "k", "v"))


def _logistic(z):
    return 1 / (1 + np.exp(-z))


OTHER_ACTIVATIONS = {  # name: the function and its derivative
    "quick_gelu": (
        lambda z: z * _logistic(1.702 * z),
        lambda z: _logistic(1.702 * z) * (1 + 1.702 * z * (1 - _logistic(1.702 * z))),
    ),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "identity": (lambda z: z, np.ones_like),
    "leaky_relu": (lambda z: np.where(z > 0, z, 0.125 * z), lambda z: np.where(z > 0, z**0, 0.125 * z**0)),
    "softplus": (lambda z: np.log(1 + np.exp(z)), _logistic),
    "hard_silu": (
        lambda z: z * np.clip(z + 3, 0, 6) / 6,
        lambda z: np.clip(z + 3, 0, 6) / 6 + z * (np.abs(z) < 3) / 6,
    ),
}


def glu(tap, gate, up, *, activation="silu"):
    act, slope = OTHER_ACTIVATIONS.get(activation) or (
        lambda z: right_glu(z, np.ones_like(z), activation=activation)[0],
        lambda z: right_glu(z, np.ones_like(z), activation=activation)[1](np.ones_like(z))["gate"],
    )
    a = tap("activated", act(gate))
    y = a * up

    def backward(dy, wrt):
        return {"gate": dy * up * tap("slope", slope(gate)), "up": dy * a}

    return y, Pullback(backward, y, ("gate", "up"))


def cross_entropy(tap, logits, labels, *, ignore_index=-100, count=None):
    counted = labels != ignore_index
    n = max(int(counted.sum()) if count is None else count, 1)
    z = tap("shifted", logits - np.max(logits, axis=-1, keepdims=True))
    p = tap("probabilities", np.exp(z) / np.sum(np.exp(z), axis=-1, keepdims=True))
    onehot = tap("onehot", (labels[..., None] == np.arange(logits.shape[-1])).astype(logits.dtype))
    logs = tap("log_total", np.log(np.sum(np.exp(z), axis=-1)))
    losses = tap("losses", logs - np.sum(onehot * z, axis=-1))
    loss = np.asarray(np.sum(losses * counted) / n, dtype=logits.dtype)

    def backward(dloss, wrt):
        return {"logits": ((p - onehot) * counted[..., None] * (dloss / n)).astype(logits.dtype)}

    return loss, Pullback(backward, loss, ("logits",))


PLAIN = {f.__name__: f for f in (lora_linear, lora_embedding, dora_linear, attention, glu, cross_entropy)}
