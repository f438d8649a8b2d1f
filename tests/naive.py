"""Every op a second time, in loops over scalars: no matrix product, no broadcasting, nothing shared with npl_lora.

f(m, a, c, dy) -> y, gradients: m is the scalars' mathematics (see scalars.py), a the inputs as object arrays of
scalars, c the configuration, dy like y. Backwards are written element by element, from the chain rule.
"""

import itertools
import math

import numpy as np


def zeros(m, *shape):
    out = np.empty(shape, dtype=object)
    for index in np.ndindex(*shape):
        out[index] = m.number(0)
    return out


def every(*sizes):
    return itertools.product(*(range(n) for n in sizes))


def rows(t):
    return t.reshape(math.prod(t.shape[:-1]), t.shape[-1])


def linear(m, a, c, dy):
    x, W, b = rows(a["x"]), a["W"], a.get("b")
    g, (N, I), O = rows(dy), x.shape, W.shape[0]
    y, dx, dW, db = zeros(m, N, O), zeros(m, N, I), zeros(m, O, I), zeros(m, O)
    for n, o in every(N, O):
        for i in range(I):
            y[n, o] += x[n, i] * W[o, i]
            dx[n, i] += g[n, o] * W[o, i]
            dW[o, i] += g[n, o] * x[n, i]
        if b is not None:
            y[n, o] += b[o]
        db[o] += g[n, o]
    grads = {"x": dx.reshape(a["x"].shape), "W": dW}
    return y.reshape(dy.shape), grads | ({} if b is None else {"b": db})


def lora_linear(m, a, c, dy):
    A, B, s, mask = a["A"], a["B"], m.number(c["scale"]), a.get("mask")
    y, grads = linear(m, a, c, dy)
    x, g, flat = rows(a["x"]), rows(dy), rows(y)
    (N, I), (R, O) = x.shape, (A.shape[0], B.shape[0])
    dA, dB, dx = zeros(m, R, I), zeros(m, O, R), rows(grads["x"])
    for n, o, k, i in every(N, O, R, I):
        keep = m.number(1) if mask is None else rows(mask)[n, i]
        flat[n, o] += s * (x[n, i] * keep) * A[k, i] * B[o, k]
        dx[n, i] += s * g[n, o] * B[o, k] * A[k, i] * keep
        dA[k, i] += s * g[n, o] * B[o, k] * (x[n, i] * keep)
        dB[o, k] += s * g[n, o] * A[k, i] * (x[n, i] * keep)
    return flat.reshape(dy.shape), {**grads, "x": dx.reshape(a["x"].shape), "A": dA, "B": dB}


def dora_linear(m, a, c, dy):
    length, norm, g = a["m"], a["n"], rows(dy)
    turned = zeros(m, *g.shape)
    for n, o in every(*g.shape):
        turned[n, o] = g[n, o] * length[o] / norm[o]
    plain = {"x": a["x"], "W": a["W"], "A": a["A"], "B": a["B"]}
    y, grads = lora_linear(m, plain, c, turned.reshape(dy.shape))
    z, out = rows(y), zeros(m, *g.shape)
    dm, db = zeros(m, len(length)), zeros(m, len(length))
    for n, o in every(*g.shape):
        out[n, o] = z[n, o] * length[o] / norm[o] + (a["b"][o] if "b" in a else m.number(0))
        dm[o] += g[n, o] * z[n, o] / norm[o]
        db[o] += g[n, o]
    return out.reshape(dy.shape), grads | {"m": dm} | ({"b": db} if "b" in a else {})


def patches(m, a, c, dy):
    x, (kh, kw) = a["x"], c["kernel"]
    y, dx = zeros(m, *dy.shape), zeros(m, *x.shape)
    for n, o, q, channel, i, j in every(*dy.shape[:3], x.shape[1], kh, kw):
        h, w = _seen(o, i, 0, c), _seen(q, j, 1, c)
        if 0 <= h < x.shape[2] and 0 <= w < x.shape[3]:
            at = (n, o, q, (channel * kh + i) * kw + j)
            y[at] = x[n, channel, h, w]
            dx[n, channel, h, w] += dy[at]
    return y, {"x": dx}


def _seen(place, entry, axis, c):
    return c["stride"][axis] * place + c["dilation"][axis] * entry - c["padding"][axis]


def lora_conv2d(m, a, c, dy):
    x, W, A, B, s = a["x"], a["W"], a["A"], a["B"], m.number(c["scale"])
    y, dx, dW, dA, dB = (zeros(m, *t.shape) for t in (dy, x, W, A, B))
    for n, oc, o, q, channel, i, j in every(*dy.shape, x.shape[1], *W.shape[2:]):
        h, w = _seen(o, i, 0, c), _seen(q, j, 1, c)
        if not (0 <= h < x.shape[2] and 0 <= w < x.shape[3]):
            continue
        v, g = x[n, channel, h, w], dy[n, oc, o, q]
        y[n, oc, o, q] += v * W[oc, channel, i, j]
        dx[n, channel, h, w] += g * W[oc, channel, i, j]
        dW[oc, channel, i, j] += g * v
        for k in range(A.shape[0]):
            y[n, oc, o, q] += s * B[oc, k, 0, 0] * A[k, channel, i, j] * v
            dx[n, channel, h, w] += s * g * B[oc, k, 0, 0] * A[k, channel, i, j]
            dA[k, channel, i, j] += s * g * B[oc, k, 0, 0] * v
            dB[oc, k, 0, 0] += s * g * A[k, channel, i, j] * v
    return y, {"x": dx, "W": dW, "A": dA, "B": dB}


def embedding(m, a, c, dy):
    ids, E, pad = a["ids"], a["E"], c.get("padding_idx")
    flat, g = ids.reshape(ids.size), rows(dy)
    y, dE = zeros(m, ids.size, E.shape[1]), zeros(m, *E.shape)
    for n, d in every(ids.size, E.shape[1]):
        y[n, d] = E[flat[n], d]
        if flat[n] != pad:
            dE[flat[n], d] += g[n, d]
    return y.reshape(dy.shape), {"E": dE}


def lora_embedding(m, a, c, dy):
    A, B, s, pad = a["A"], a["B"], m.number(c["scale"]), c.get("padding_idx")
    y, grads = embedding(m, a, c, dy)
    flat, out, g = a["ids"].reshape(a["ids"].size), rows(y), rows(dy)
    dA, dB = zeros(m, *A.shape), zeros(m, *B.shape)
    for n, k, d in every(len(flat), A.shape[0], B.shape[0]):
        v, keep = flat[n], m.number(1) if "mask" not in a else rows(a["mask"])[n, k]
        out[n, d] += s * (A[k, v] * keep) * B[d, k]
        dB[d, k] += s * g[n, d] * (A[k, v] * keep)
        if v != pad:
            dA[k, v] += s * g[n, d] * B[d, k] * keep
    return out.reshape(dy.shape), {**grads, "A": dA, "B": dB}


def dropout(m, a, c, dy):
    y, dx = zeros(m, *dy.shape), zeros(m, *dy.shape)
    for i in np.ndindex(*dy.shape):
        y[i], dx[i] = a["x"][i] * a["mask"][i], dy[i] * a["mask"][i]
    return y, {"x": dx}


def merge(m, a, c, dy, sign=1, name="W"):
    W, A, B, s = a[name], a["A"], a["B"], m.number(c["scale"]) * sign
    y, dA, dB = zeros(m, *W.shape), zeros(m, *A.shape), zeros(m, *B.shape)
    for o, i in every(B.shape[0], A.shape[1]):
        at = (i, o) if c.get("fan_in_fan_out") else (o, i)
        y[at] += W[at]
        for k in range(A.shape[0]):
            y[at] += s * B[o, k] * A[k, i]
            dA[k, i] += s * B[o, k] * dy[at]
            dB[o, k] += s * A[k, i] * dy[at]
    return y, {"A": dA, "B": dB, name: dy}


def unmerge(m, a, c, dy):
    return merge(m, a, c, dy, -1, "W_merged")


def combine(m, a, c, dy):
    delta, grads = zeros(m, *dy.shape), {}
    for n, (weight, scale) in enumerate(zip(c["weights"], c["scales"], strict=True), start=1):
        A, B, share = a[f"A_{n}"], a[f"B_{n}"], m.number(weight) * m.number(scale)
        dA, dB = zeros(m, *A.shape), zeros(m, *B.shape)
        for o, i, k in every(B.shape[0], A.shape[1], A.shape[0]):
            delta[o, i] += share * B[o, k] * A[k, i]
            dA[k, i] += share * B[o, k] * dy[o, i]
            dB[o, k] += share * A[k, i] * dy[o, i]
        grads |= {f"A_{n}": dA, f"B_{n}": dB}
    return delta, grads


def lora_batched(m, a, c, dy):
    x, W, A, B, ids = (a[name] for name in ("x", "W", "A", "B", "ids"))
    y, grads = zeros(m, *dy.shape), {name: zeros(m, *a[name].shape) for name in a if name != "ids"}
    for at in np.ndindex(*dy.shape[:-1]):
        k = int(ids[at[0]])
        for o, i in every(W.shape[0], W.shape[1]):
            y[(*at, o)] += x[(*at, i)] * W[o, i]
            grads["x"][(*at, i)] += dy[(*at, o)] * W[o, i]
            grads["W"][o, i] += dy[(*at, o)] * x[(*at, i)]
            for j in range(c["ranks"][k] if k >= 0 else 0):
                s = m.number(c["scales"][k])
                y[(*at, o)] += s * x[(*at, i)] * A[k, j, i] * B[k, o, j]
                grads["x"][(*at, i)] += s * dy[(*at, o)] * B[k, o, j] * A[k, j, i]
                grads["A"][k, j, i] += s * dy[(*at, o)] * B[k, o, j] * x[(*at, i)]
                grads["B"][k, o, j] += s * dy[(*at, o)] * A[k, j, i] * x[(*at, i)]
        for o in range(W.shape[0] if "b" in a else 0):
            y[(*at, o)] += a["b"][o]
            grads["b"][o] += dy[(*at, o)]
    return y, grads


def softmax_row(m, row, visible):
    """One row; what is not visible is zero."""
    y = [m.number(0) for _ in row]
    if not any(visible):
        return y
    top = top_of([v for v, s in zip(row, visible, strict=True) if s])
    total = m.number(0)
    for j, value in enumerate(row):
        if visible[j]:
            y[j] = m.exp(value - top)
            total = total + y[j]
    return [e / total for e in y]


def top_of(row):
    """The largest entry as a plain number: taking it away and adding it back changes nothing."""
    return max(float(getattr(v, "value", v)) for v in row)


def softmax_row_back(m, y, dy):
    along = m.number(0)
    for p, g in zip(y, dy, strict=True):
        along = along + p * g
    return [p * (g - along) for p, g in zip(y, dy, strict=True)]


def softmax(m, a, c, dy):
    x = rows(a["x"])
    mask = np.ones(x.shape, bool) if a.get("mask") is None else rows(np.broadcast_to(a["mask"], a["x"].shape))
    y, dx = zeros(m, *x.shape), zeros(m, *x.shape)
    for n in range(x.shape[0]):
        y[n] = softmax_row(m, x[n], mask[n])
        dx[n] = softmax_row_back(m, y[n], rows(dy)[n])
    return y.reshape(dy.shape), {"x": dx.reshape(dy.shape)}


def attention(m, a, c, dy):
    q, k, v = a["q"], a["k"], a["v"]
    lead, (H, T, D), (G, S) = q.shape[:-3], q.shape[-3:], k.shape[-3:-1]
    scale = 1 / m.sqrt(m.number(D)) if c.get("scale") is None else m.number(c["scale"])
    y, dq, dk, dv = zeros(m, *dy.shape), zeros(m, *q.shape), zeros(m, *k.shape), zeros(m, *v.shape)
    for at in np.ndindex(*lead):
        for h, t in every(H, T):
            u, me = (*at, h // (H // G)), (*at, h, t)
            visible = [_sees(c, t, j, None if a.get("key_mask") is None else a["key_mask"][(*at, j)]) for j in range(S)]
            scores = [_dot(m, q[me], k[(*u, j)]) * scale for j in range(S)]
            slopes = [m.number(1)] * S
            if c.get("softcap") is not None:
                cap = m.number(c["softcap"])
                tanhs = [m.tanh(score / cap) for score in scores]
                scores, slopes = [cap * t for t in tanhs], [1 - t * t for t in tanhs]
            p = softmax_row(m, scores, visible)
            dp = [_dot(m, dy[me], v[(*u, j)]) for j in range(S)]
            ds = [d * slope for d, slope in zip(softmax_row_back(m, p, dp), slopes, strict=True)]
            for j in range(S):
                for d in range(v.shape[-1]):
                    y[(*me, d)] += p[j] * v[(*u, j, d)]
                    dv[(*u, j, d)] += p[j] * dy[(*me, d)]
                for d in range(D):
                    dq[(*me, d)] += scale * ds[j] * k[(*u, j, d)]
                    dk[(*u, j, d)] += scale * ds[j] * q[(*me, d)]
    return y, {"q": dq, "k": dk, "v": dv}


def _dot(m, a, b):
    total = m.number(0)
    for s, t in zip(a, b, strict=True):
        total = total + s * t
    return total


def _sees(c, t, j, allowed):
    here = t + c.get("offset", 0)
    near = c.get("window") is None or abs(here - j) < c["window"]
    return near and (not c.get("causal") or j <= here) and (allowed is None or bool(allowed))


def rope(m, a, c, dy):
    x, half = a["x"], a["x"].shape[-1] // 2
    y, dx = zeros(m, *x.shape), zeros(m, *x.shape)
    for at in np.ndindex(*x.shape[:-1]):
        for i in range(half):
            exponent = m.number(-2 * i) / m.number(2 * half)
            phi = m.number(at[-1] + c.get("start", 0)) * m.exp(exponent * m.log(m.number(c.get("theta", 10000.0))))
            cos, sin = m.cos(phi), m.sin(phi)
            s, t = ((*at, 2 * i), (*at, 2 * i + 1)) if c.get("interleaved") else ((*at, i), (*at, i + half))
            y[s], y[t] = x[s] * cos - x[t] * sin, x[t] * cos + x[s] * sin
            dx[s], dx[t] = dy[s] * cos + dy[t] * sin, dy[t] * cos - dy[s] * sin
    return y, {"x": dx}


def mean(m, values):
    total = m.number(0)
    for value in values:
        total = total + value
    return total / m.number(len(values))


def masked_mean(m, a, c, dy):
    x, y, dx = a["x"], zeros(m, *dy.shape), zeros(m, *a["x"].shape)
    for index in every(*dy.shape[:-1]):
        visible = [t for t in range(x.shape[-2]) if "mask" not in a or a["mask"][(*index, t)]]
        for i, t in itertools.product(range(x.shape[-1]), visible):
            y[(*index, i)] += x[(*index, t, i)] / m.number(len(visible))
            dx[(*index, t, i)] += dy[(*index, i)] / m.number(len(visible))
    return y, {"x": dx}


def layer_norm(m, a, c, dy):
    x, w, b, g = rows(a["x"]), a["w"], a["b"], rows(dy)
    y, dx, dw, db = zeros(m, *x.shape), zeros(m, *x.shape), zeros(m, *w.shape), zeros(m, *w.shape)
    for n in range(x.shape[0]):
        mu = mean(m, x[n])
        centred = [value - mu for value in x[n]]
        q = 1 / m.sqrt(mean(m, [value * value for value in centred]) + m.number(c["eps"]))
        hat, back = [value * q for value in centred], [s * t for s, t in zip(w, g[n], strict=True)]
        level, along = mean(m, back), mean(m, [s * t for s, t in zip(hat, back, strict=True)])
        for i in range(len(w)):
            y[n, i] = w[i] * hat[i] + b[i]
            dx[n, i] = q * (back[i] - level - hat[i] * along)
            dw[i] += g[n, i] * hat[i]
            db[i] += g[n, i]
    return y.reshape(dy.shape), {"x": dx.reshape(dy.shape), "w": dw, "b": db}


def rms_norm(m, a, c, dy):
    x, w, g = rows(a["x"]), a["w"], rows(dy)
    y, dx, dw = zeros(m, *x.shape), zeros(m, *x.shape), zeros(m, *w.shape)
    for n in range(x.shape[0]):
        q = 1 / m.sqrt(mean(m, [value * value for value in x[n]]) + m.number(c["eps"]))
        hat, back = [value * q for value in x[n]], [s * t for s, t in zip(w, g[n], strict=True)]
        along = mean(m, [s * t for s, t in zip(hat, back, strict=True)])
        for i in range(len(w)):
            y[n, i] = w[i] * hat[i]
            dx[n, i] = q * (back[i] - hat[i] * along)
            dw[i] += g[n, i] * hat[i]
    return y.reshape(dy.shape), {"x": dx.reshape(dy.shape), "w": dw}


# Activations: value and slope of one number

ACTIVATIONS = {}


def activation(one):
    """The op, from the function that gives y and dy/dz of one number."""

    def op(m, a, c, dy):
        y, dz = zeros(m, *dy.shape), zeros(m, *dy.shape)
        for i in np.ndindex(*dy.shape):
            y[i], slope = one(m, a["z"][i])
            dz[i] = dy[i] * slope
        return y, {"z": dz}

    ACTIVATIONS[one.__name__] = one
    return op


@activation
def silu(m, z):
    e = m.exp(-z)
    return z / (1 + e), 1 / (1 + e) + z * e / ((1 + e) * (1 + e))


@activation
def gelu(m, z):
    density = m.exp(z * z * m.number(-0.5)) / m.sqrt(m.number(2) * m.pi)
    return z * m.cdf(z), m.cdf(z) + z * density


@activation
def gelu_tanh(m, z):
    root, cubic = m.sqrt(m.number(2) / m.pi), m.number(0.044715)
    t, half = m.tanh(root * (z + cubic * z * z * z)), m.number(0.5)
    slope = root * (1 + m.number(3) * cubic * z * z)
    return half * z * (1 + t), half * (1 + t) + half * z * (1 - t * t) * slope


@activation
def relu(m, z):
    return (z, m.number(1)) if z > 0 else (m.number(0), m.number(0))


@activation
def tanh(m, z):
    t = m.tanh(z)
    return t, 1 - t * t


def glu(m, a, c, dy):
    y, dgate, dup = (zeros(m, *dy.shape) for _ in range(3))
    for i in np.ndindex(*dy.shape):
        value, slope = ACTIVATIONS[c["activation"]](m, a["gate"][i])
        y[i] = value * a["up"][i]
        dgate[i], dup[i] = dy[i] * a["up"][i] * slope, dy[i] * value
    return y, {"gate": dgate, "up": dup}


def mlp(m, a, c, dy, layer, names):
    """glu between three layers; names(n) maps the layer's own names to those of projection n."""

    def given(n, x):
        return {"x": x, **{own: a[full] for own, full in names(n).items()}}

    F = a["W_gate"].shape[0]
    blank = zeros(m, *a["x"].shape[:-1], F)
    gate, up = layer(m, given("gate", a["x"]), c, blank)[0], layer(m, given("up", a["x"]), c, blank)[0]
    inner = glu(m, {"gate": gate, "up": up}, c, blank)[0]
    y, down = layer(m, given("down", inner), c, dy)
    through = glu(m, {"gate": gate, "up": up}, c, down["x"])[1]
    parts = {"down": down, **{n: layer(m, given(n, a["x"]), c, through[n])[1] for n in ("gate", "up")}}
    grads = {full: parts[n][own] for n in parts for own, full in names(n).items()}
    return y, {**grads, "x": parts["gate"]["x"] + parts["up"]["x"]}


def gated_mlp(m, a, c, dy):
    return mlp(m, a, c, dy, linear, lambda n: {"W": f"W_{n}"})


def lora_mlp(m, a, c, dy):
    return mlp(m, a, c, dy, lora_linear, lambda n: {"W": f"W_{n}", "A": f"A_{n}", "B": f"B_{n}"})


def lora_attention(m, a, c, dy):
    H, G, x = c["n_heads"], c["n_kv_heads"], a["x"]
    D = a["Wq"].shape[0] // H
    rope_config = {"theta": c["rope_theta"]}

    def layer(n, x, dy):
        return lora_linear(m, {"x": x, "W": a[f"W{n}"], "A": a[f"A_{n}"], "B": a[f"B_{n}"]}, c, dy)

    def split(t, heads):
        return np.swapaxes(t.reshape(*t.shape[:-1], heads, D), -2, -3)

    def join(t):
        t = np.swapaxes(t, -2, -3)
        return t.reshape(*t.shape[:-2], t.shape[-2] * D)

    def turn(t, dt):
        return (t, {"x": dt}) if c["rope_theta"] is None else rope(m, {"x": t}, rope_config, dt)

    heads = {"q": H, "k": G, "v": G}
    flat = {n: layer(n, x, zeros(m, *x.shape[:-1], heads[n] * D))[0] for n in heads}
    cut = {n: split(flat[n], heads[n]) for n in heads}
    turned = {n: turn(cut[n], zeros(m, *cut[n].shape))[0] if n != "v" else cut[n] for n in heads}
    config = {"causal": c["causal"]}
    masked = {**turned, "key_mask": a.get("key_mask")}
    mixed = attention(m, masked, config, zeros(m, *turned["q"].shape))[0]
    y, out = layer("o", join(mixed), dy)
    back = attention(m, masked, config, split(out["x"], H))[1]
    grads, dx = {"Wo": out["W"], "A_o": out["A"], "B_o": out["B"]}, zeros(m, *x.shape)
    for n in heads:
        d = turn(cut[n], back[n])[1]["x"] if n != "v" else back[n]
        part = layer(n, x, join(d))[1]
        grads |= {f"W{n}": part["W"], f"A_{n}": part["A"], f"B_{n}": part["B"]}
        dx = dx + part["x"]
    return y, {**grads, "x": dx}


def cross_entropy(m, a, c, dy):
    logits, labels, ignore = rows(a["logits"]), a["labels"].reshape(a["labels"].size), c.get("ignore_index", -100)
    counted = [n for n in range(len(labels)) if labels[n] != ignore]
    count = m.number(max(len(counted) if c.get("count") is None else c["count"], 1))
    loss, dlogits = m.number(0), zeros(m, *logits.shape)
    for n in counted:
        p = softmax_row(m, logits[n], [True] * logits.shape[1])
        top = top_of(logits[n])
        total = m.number(0)
        for value in logits[n]:
            total = total + m.exp(value - top)
        loss = loss + (m.log(total) + top - logits[n][labels[n]]) / count
        for v in range(logits.shape[1]):
            hit = m.number(1 if v == labels[n] else 0)
            dlogits[n, v] = dy[()] * (p[v] - hit) / count
    y = np.empty((), dtype=object)
    y[()] = loss
    return y, {"logits": dlogits.reshape(a["logits"].shape)}


def mean_squared_error(m, a, c, dy):
    p, t = a["prediction"], a["target"]
    count, loss, d = m.number(max(p.size if c.get("count") is None else c["count"], 1)), m.number(0), zeros(m, *p.shape)
    for i in np.ndindex(*p.shape):
        loss = loss + (p[i] - t[i]) * (p[i] - t[i]) / count
        d[i] = dy[()] * m.number(2) * (p[i] - t[i]) / count
    y = np.empty((), dtype=object)
    y[()] = loss
    return y, {"prediction": d}
