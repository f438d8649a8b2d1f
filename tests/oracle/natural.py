"""Mistakes as people make them, in plain NumPy, which the catalogue does not hold, and what the check must say of each.

MISTAKES: (contract, what is wrong, answer(arrays, config), what the diagnosis says, words that it must not say).
"""

import math

import numpy as np

MISTAKES = []


def mistake(contract, what, says, never=()):
    def add(answer):
        MISTAKES.append((contract, what, answer, says, never))
        return answer

    return add


def scale(config):
    return config["alpha"] / (math.sqrt(config["r"]) if config["use_rslora"] else config["r"])


def flat(t):
    return t.reshape(-1, t.shape[-1])


def lora_linear(a, config, s=None):
    x, W, A, B, dy = (a[name] for name in ("x", "W", "A", "B", "dy"))
    s, mask = scale(config) if s is None else s, a.get("mask", np.ones_like(x))
    h, g = (x * mask) @ A.T, s * (dy @ B)
    return {
        "y": x @ W.T + a.get("b", 0) + s * (h @ B.T),
        "dx": dy @ W + mask * (g @ A),
        "dA": flat(g).T @ flat(x * mask),
        "dB": s * (flat(dy).T @ flat(h)),
    }


def low_rank_input(a):
    return a["x"] * a.get("mask", np.ones_like(a["x"]))


@mistake("lora_linear", "a reshape for a transpose", "dB: as if dy were reshaped where it should be transposed")
def _(a, config):
    h, dy = flat(low_rank_input(a) @ a["A"].T), a["dy"]
    return {**lora_linear(a, config), "dB": scale(config) * (dy.reshape(dy.shape[-1], -1) @ h)}


@mistake("lora_linear", "the mean over the batch", "dA and dB: as if x were divided by the number of batch rows")
def _(a, config):
    right, n = lora_linear(a, config), len(a["x"]) if a["x"].ndim > 1 else 1
    return {**right, "dA": right["dA"] / n, "dB": right["dB"] / n}


@mistake("lora_linear", "the last batch row overwrites the others", "as if x had its last batch row alone")
def _(a, config):
    right = lora_linear(a, config)
    if a["x"].ndim < 3:
        return right
    g = scale(config) * (a["dy"] @ a["B"])
    return {**right, "dA": flat(g[-1]).T @ flat(low_rank_input(a)[-1])}


@mistake("lora_linear", "ReLU between A and B", "y: as if the term x A^T went through ReLU")
def _(a, config):
    h = np.maximum(low_rank_input(a) @ a["A"].T, 0.0)
    return {**lora_linear(a, config), "y": a["x"] @ a["W"].T + a.get("b", 0) + scale(config) * (h @ a["B"].T)}


@mistake("lora_linear", "one rank too many in the scale", "every output: as if r were larger by 1 in the scale")
def _(a, config):
    return lora_linear(a, config, scale({**config, "r": config["r"] + 1}))


@mistake("lora_linear", "a scale of its own", "y has 0.8 times its term s (x A^T) B^T", ["it does not depend on"])
def _(a, config):
    return lora_linear(a, config, config["alpha"] / (config["r"] + 1))


@mistake("lora_linear", "the mask twice in dx", "the dropout mask acts on dx twice (D2)", ["S1"])
def _(a, config):
    low = scale(config) * (a["dy"] @ a["B"]) @ a["A"]
    return {**lora_linear(a, config), "dx": a["dy"] @ a["W"] + a.get("mask", 1.0) ** 2 * low}


def dora_linear(a, config, n=None):
    x, A, B, m, dy, s = a["x"], a["A"], a["B"], a["m"], a["dy"], scale(config)
    V = a["W"] + s * B @ A
    n = np.linalg.norm(V, axis=1) if n is None else n
    c = m / n
    return {
        "y": c * (x @ V.T) + a.get("b", 0),
        "dx": (c * dy) @ V,
        "dA": flat(s * (c * dy) @ B).T @ flat(x),
        "dB": s * flat(c * dy).T @ flat(x @ A.T),
        "dm": np.sum(flat(dy) * flat(x @ V.T), axis=0) / n,
    }


@mistake(
    "dora_linear", "the norms of both terms", "the norm of the rows of V = W + s B A, were sqrt(|W|^2 + |s B A|^2)."
)
def _(a, config):
    L = scale(config) * a["B"] @ a["A"]
    return dora_linear(a, config, np.sqrt(np.sum(a["W"] ** 2, axis=1) + np.sum(L**2, axis=1)))


@mistake("dora_linear", "the 1-norm", "were the sum of |V|, the 1-norm.", ["factor of its own"])
def _(a, config):
    return dora_linear(a, config, np.sum(np.abs(a["W"] + scale(config) * a["B"] @ a["A"]), axis=1))


@mistake("dora_linear", "other norms", "as if n, the norm of the rows of V = W + s B A, were other numbers (")
def _(a, config):
    V = a["W"] + scale(config) * a["B"] @ a["A"]
    return dora_linear(a, config, np.linalg.norm(V, axis=1) ** 1.5 + 0.25)


@mistake("dora_linear", "dm is not divided", "dm is the right one times |W + scale B A|.")
def _(a, config):
    right, V = dora_linear(a, config), a["W"] + scale(config) * a["B"] @ a["A"]
    return {**right, "dm": right["dm"] * np.linalg.norm(V, axis=1)}


@mistake("lora_embedding", "ids from 1", "every output: as if ids were smaller by 1.")
def _(a, config):
    ids, s = np.maximum(a["ids"] - 1, 0), scale(config)
    h, dA = a["A"].T[ids], np.zeros(a["A"].shape[::-1])
    g = flat(s * a["dy"] @ a["B"]) * (ids.reshape(-1, 1) != config["padding_idx"])
    np.add.at(dA, ids.reshape(-1), g)
    return {"y": a["E"][ids] + s * h @ a["B"].T, "dA": dA.T, "dB": s * flat(a["dy"]).T @ flat(h)}


def cross_entropy(a, config, temperature=1.0):
    z, labels = a["logits"][:, :-1] / temperature, a["labels"][:, 1:]
    counts = labels != config["ignore_index"]
    largest = np.max(z, axis=-1, keepdims=True)
    logs = z - largest - np.log(np.sum(np.exp(z - largest), axis=-1, keepdims=True))
    one_hot = np.eye(z.shape[-1])[np.where(counts, labels, 0)]
    n, dlogits = max(np.sum(counts), 1), np.zeros_like(a["logits"])
    dlogits[:, :-1] = (np.exp(logs) - one_hot) * counts[..., None] / n / temperature
    return {"loss": -np.sum(np.sum(np.where(one_hot > 0, logs, 0), axis=-1)[counts]) / n, "dlogits": dlogits}


@mistake("cross_entropy", "a temperature", "every output: as if logits were halved (and its gradient accordingly).")
def _(a, config):
    return cross_entropy(a, config, 2.0)


@mistake("cross_entropy", "a temperature in the loss alone", "loss: as if logits were halved.")
def _(a, config):
    return {"loss": cross_entropy(a, config, 2.0)["loss"], "dlogits": 0.75 * cross_entropy(a, config, 3.0)["dlogits"]}


def train_steps(a, config, step):
    """step(p, g, state, t) -> the new p."""
    W, s, K = a["W"], scale(config), config["accumulation"]
    now, states, losses = {name: a[name] for name in "AB"}, {"A": {}, "B": {}}, []
    for t, start in enumerate(range(0, len(a["X"]), K), 1):
        x, target = (flat(a[name][start : start + K]) for name in "XY")
        error = x @ W.T + s * (x @ now["A"].T) @ now["B"].T - target
        d = 2.0 * error / error.size
        grads = {"A": s * (d @ now["B"]).T @ x, "B": s * d.T @ (x @ now["A"].T)}
        losses.append(np.mean(error * error))
        now = {name: step(p, grads[name], states[name], t) for name, p in now.items()}
    return {"losses": np.array(losses), "A_after": now["A"], "B_after": now["B"], "W_after": W}


@mistake("train_steps", "a step of its own", "", ["mean_squared_error", "(prediction - target)"])
def _(a, config):
    lr, decay, (b1, b2), eps = (config[name] for name in ("lr", "weight_decay", "betas", "eps"))

    def step(p, g, state, t):
        if config["optimizer"] == "sgd":
            return p - lr * (g + decay * p)
        state["m"] = b1 * state.get("m", 0.0) + (1.0 - b1) * g
        state["v"] = b2 * state.get("v", 0.0) + (1.0 - b2) * np.abs(g)
        return p * (1.0 - lr * decay) - lr * state["m"] / (1.0 - b1**t) / (state["v"] / (1.0 - b2**t) + eps)

    return train_steps(a, config, step)


def rope(a, config, angles):
    """angles(p (T, 1), i (D/2,), D, theta)"""
    D = a["x"].shape[-1]
    phi = angles(a["positions"][:, None] * 1.0, np.arange(D // 2), D, config["theta"])

    def turned(u, phi):
        half = (slice(0, None, 2), slice(1, None, 2)) if config["interleaved"] else (slice(D // 2), slice(D // 2, D))
        first, second = (u[..., part] for part in half)
        y = np.empty_like(u)
        y[..., half[0]] = first * np.cos(phi) - second * np.sin(phi)
        y[..., half[1]] = second * np.cos(phi) + first * np.sin(phi)
        return y

    return {"y": turned(a["x"], phi), "dx": turned(a["dy"], -phi)}


@mistake("rope", "degrees", "every output: as if the angles were taken for degrees.")
def _(a, config):
    return rope(a, config, lambda p, i, D, theta: np.radians(p * theta ** (-2 * i / D)))


@mistake("rope", "the next exponent", "every output: as if the frequencies were theta^(-2(i + 1) / D).")
def _(a, config):
    return rope(a, config, lambda p, i, D, theta: p * theta ** (-2 * (i + 1) / D))


@mistake("rope", "frequencies of its own", "as if rope's angles were others: at position 1 (row 1), pair 1, 0.5,")
def _(a, config):
    return rope(a, config, lambda p, i, D, theta: p * 2.0**-i)


def rms_norm(a, config, root):
    x, w, dy = a["x"], a["w"], a["dy"]
    q = 1.0 / root(x, config["eps"])
    h, g = x * q, w * dy
    return {
        "y": w * h,
        "dx": q * (g - h * np.mean(g * h, axis=-1, keepdims=True)),
        "dw": np.sum(flat(dy) * flat(h), axis=0),
    }


@mistake("rms_norm", "n - 1 for n", "every output: as if the root were sqrt(sum(x^2) / (n - 1) + eps).")
def _(a, config):
    return rms_norm(a, config, lambda x, eps: np.sqrt(np.sum(x * x, axis=-1, keepdims=True) / (x.shape[-1] - 1) + eps))


@mistake("rms_norm", "the mean of |x|", "every output: as if the root were mean(|x|) + eps.")
def _(a, config):
    return rms_norm(a, config, lambda x, eps: np.mean(np.abs(x), axis=-1, keepdims=True) + eps)
