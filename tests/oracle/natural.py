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


@mistake("lora_merge", "the unmerge twice", "unmerging subtracts the update twice (M17)", ["M5"])
def _(a, config):
    D = a["B"] @ a["A"]
    D = scale(config) * (D.T if config["fan_in_fan_out"] else D)
    return {"W_merged": a["W"] + D, "W_unmerged": a["W"] - D}


def adapter_combine(a, config, weights=None, truncated=None, use_rslora=None):
    """truncated(delta, r, [w_i s_i B_i A_i]), for svd."""
    weights = config["weights"] if weights is None else weights(np.array(config["weights"]))
    of = zip(config["alpha"], config["r"], config["use_rslora"] if use_rslora is None else use_rslora, strict=True)
    s = [scale({"alpha": alpha, "r": r, "use_rslora": rs}) for alpha, r, rs in of]
    terms = [w * s[i] * a[f"B_{i + 1}"] @ a[f"A_{i + 1}"] for i, w in enumerate(weights)]
    if config["combination"] != "svd":
        return {"delta": sum(terms)}
    return {"delta": (truncated or (lambda t, r, each: singular(t, r)))(sum(terms), config["r_new"], terms)}


def singular(t, r, change=lambda S: S):
    U, S, Vt = np.linalg.svd(t, full_matrices=False)
    return (U[:, :r] * change(S[:r])) @ Vt[:r]


@mistake("adapter_combine", "use_rslora of the first", "as the use_rslora of the first one says (S9)", ["S3"])
def _(a, config):
    return adapter_combine(a, config, use_rslora=[config["use_rslora"][0]] * len(config["r"]))


COMBINED = {
    "weights of sum one": ("the weights were divided by their sum.", {"weights": lambda w: w / w.sum()}),
    "softmax": ("the weights went through a softmax.", {"weights": lambda w: np.exp(w) / np.exp(w).sum()}),
    "a mean": ("delta were a mean over the adapters", {"weights": lambda w: w / len(w)}),
    "roots of weights": ("the weights were the roots", {"weights": lambda w: np.sign(w) * np.sqrt(np.abs(w))}),
    "roots of S": ("the roots of the singular values", {"truncated": lambda t, r, each: singular(t, r, np.sqrt)}),
    "S twice": ("the singular values were squared", {"truncated": lambda t, r, each: singular(t, r, np.square)}),
    "no S": ("the singular values were left out", {"truncated": lambda t, r, each: singular(t, r, np.ones_like)}),
    "one less": ("r_new - 1 singular values", {"truncated": lambda t, r, each: singular(t, r - 1)}),
    "one more": ("r_new + 1 singular values", {"truncated": lambda t, r, each: singular(t, r + 1)}),
    "no truncation": ("nothing were truncated", {"truncated": lambda t, r, each: t}),
    "each truncated": (
        "each adapter were truncated to r_new, and then summed.",
        {"truncated": lambda t, r, each: sum(singular(one, r) for one in each)},
    ),
    "of the first": ("that of the first adapter", {"truncated": lambda t, r, each: singular(each[0], r)}),
    "other singular values": (
        "U and V of the svd are right, and the singular values are not",
        {"truncated": lambda t, r, each: singular(t, r, lambda S: S**1.25 + 0.5)},
    ),
}
for what, (says, how) in COMBINED.items():

    @mistake("adapter_combine", what, says, ["W8", "W3"])
    def _(a, config, how=how):
        return adapter_combine(a, config, **how)


def sigmoid(z):
    return 1.0 / (1.0 + np.exp(-z))


def Phi(z):
    return 0.5 * (1.0 + np.vectorize(math.erf)(z / math.sqrt(2.0)))


def phi(z):
    return np.exp(-z * z / 2.0) / math.sqrt(2.0 * math.pi)


def gelu_tanh(z):
    t = np.tanh(math.sqrt(2.0 / math.pi) * (z + 0.044715 * z**3))
    du = math.sqrt(2.0 / math.pi) * (1.0 + 3.0 * 0.044715 * z * z)
    return 0.5 * z * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * z * (1.0 - t * t) * du


ACTIVATIONS = {
    "silu": lambda z: (z * sigmoid(z), sigmoid(z) * (1.0 + z * (1.0 - sigmoid(z)))),
    "gelu": lambda z: (z * Phi(z), Phi(z) + z * phi(z)),
    "gelu_tanh": gelu_tanh,
}


def lora_mlp(a, config, **other):
    """other: another activation with its slope, by the name of the right one."""
    s, W, A, B = scale(config), *({n: a[f"{t}_{n}"] for n in ("gate", "up", "down")} for t in "WAB")

    def forward(n, x):
        return x @ W[n].T + s * (x @ A[n].T) @ B[n].T

    def backward(n, dy, x):
        grads[f"dA_{n}"], grads[f"dB_{n}"] = s * flat(dy @ B[n]).T @ flat(x), s * flat(dy).T @ flat(x @ A[n].T)
        return dy @ W[n] + s * (dy @ B[n]) @ A[n]

    gate, up, grads = forward("gate", a["x"]), forward("up", a["x"]), {}
    act, slope = {**ACTIVATIONS, **other}[config["activation"]](gate)
    dh = backward("down", a["dy"], act * up)
    dx = backward("gate", dh * up * slope, a["x"]) + backward("up", dh * act, a["x"])
    return {"y": forward("down", act * up), "dx": dx, **grads}


def with_slope(name, slope):
    return {name: lambda z: (ACTIVATIONS[name](z)[0], slope(z))}


MLP = {
    "that of the sigmoid": with_slope("silu", lambda z: sigmoid(z) * (1.0 - sigmoid(z))),
    "sigma(z) + z (1 - sigma(z))": with_slope("silu", lambda z: sigmoid(z) + z * (1.0 - sigmoid(z))),
    "Phi(z) + phi(z)": with_slope("gelu", lambda z: Phi(z) + phi(z)),
    "Phi(z) + z exp(-z^2)": with_slope("gelu", lambda z: Phi(z) + z * phi(math.sqrt(2.0) * z)),
    "gelu lacked its factor 1/2 in glu.": {"gelu": lambda z: (2.0 * z * Phi(z), 2.0 * (Phi(z) + z * phi(z)))},
    "gelu had erf(z) for erf(z / sqrt(2)) in glu.": {
        "gelu": lambda z: (z * Phi(2.0**0.5 * z), Phi(2.0**0.5 * z) + 2.0**0.5 * z * phi(2.0**0.5 * z))
    },
    "that of relu": {n: (lambda z, n=n: (ACTIVATIONS[n](z)[0], (z > 0) * 1.0)) for n in ACTIVATIONS},
    "of the activated value": {
        n: (lambda z, n=n: (ACTIVATIONS[n](z)[0], ACTIVATIONS[n](ACTIVATIONS[n](z)[0])[1])) for n in ACTIVATIONS
    },
}
for says, other in MLP.items():

    @mistake("lora_mlp", says, says, ["dy were doubled", "term"])
    def _(a, config, other=other):
        return lora_mlp(a, config, **other)


def lora_dropout(a, config, mask=None, evaluated=lambda p: 1.0):
    """mask(numbers drawn from 0 to 1, p). evaluated(p): a factor of the low-rank path in y_eval."""
    p, s, A, B = config["p"], scale(config), a["A"], a["B"]
    rng, linear = np.random.default_rng(5), config["layer"] == "linear"
    what, base = (a["x"], a["x"] @ a["W"].T) if linear else (A.T[a["ids"]], a["E"][a["ids"]])
    through = A if linear else np.eye(A.shape[0])
    mask = mask or (lambda drawn, p: (drawn >= p) / (1.0 - p))
    M, again = (mask(rng.random(what.shape), p) for _ in range(2))
    y, y_again, y_eval = (base + s * (t @ through.T) @ B.T for t in (what * M, what * again, what * evaluated(p)))
    g, dB = s * a["dy"] @ B, s * flat(a["dy"]).T @ flat((what * M) @ through.T)
    if linear:
        grads = {"dx": a["dy"] @ a["W"] + M * (g @ A), "dA": flat(g).T @ flat(what * M)}
    else:
        dA = np.zeros(A.shape[::-1])
        np.add.at(dA, a["ids"].reshape(-1), flat(g * M))
        grads = {"dA": dA.T}
    return {"y": y, "y_again": y_again, "y_eval": y_eval, **grads, "dB": dB}


DROPOUT = {
    "evaluation divides the low-rank path by 1 - p": {"evaluated": lambda p: 1.0 / (1.0 - p)},
    "are divided by p instead of 1 - p (D9)": {"mask": lambda drawn, p: (drawn >= p) / p},
    "are divided by 1 - p twice (D9)": {"mask": lambda drawn, p: (drawn >= p) / (1.0 - p) ** 2},
    "p is taken for the probability to keep a value, not to drop it (D15)": {"mask": lambda drawn, p: (drawn < p) / p},
}
for says, how in DROPOUT.items():

    @mistake("lora_dropout", says, says, ["D4"])
    def _(a, config, how=how):
        return lora_dropout(a, config, **how)


@mistake("lora_init", "Kaiming's bound with a = 0", "its numbers are distributed as U(-c, c) with c = sqrt(6 / in)")
def _(a, config):
    (out, n), r, rng = a["W"].shape, config["r"], np.random.default_rng(len(a["W"]))
    if config["layer"] == "embedding":
        return {"A": np.zeros((r, out)), "B": rng.standard_normal((n, r))}
    uniform = config["distribution"] == "kaiming_uniform"
    A = rng.uniform(-1.0, 1.0, (r, n)) * (6.0 / n) ** 0.5 if uniform else rng.standard_normal((r, n)) / r
    return {"A": A, "B": np.zeros((out, r))}


@mistake("lora_init", "the last rank is never drawn", "A and B are both zero at rank 15", ["spread"])
def _(a, config):
    (out, n), r, rng = a["W"].shape, config["r"], np.random.default_rng(len(a["W"]))
    if config["layer"] == "embedding":
        return {"A": np.zeros((r, out)), "B": rng.standard_normal((n, r))}
    uniform = config["distribution"] == "kaiming_uniform"
    A = rng.uniform(-1.0, 1.0, (r, n)) / n**0.5 if uniform else rng.standard_normal((r, n)) / r
    A[-1] = 0.0
    return {"A": A, "B": np.zeros((out, r))}
