"""lora_attention: self-attention with LoRA on q, k, v and o, forward and backward."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...ops import Pullback
from ..definition import RIGHT, Definition
from .contract import Array, Config, Contract, Draw, gradients, inputs, lora


def forward(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> tuple[Array, Pullback]:
    how = {name: config[name] for name in ("n_heads", "n_kv_heads", "causal", "rope_theta")}
    return d.lora_attention(**inputs(arrays), scale=d.scale(config), ops=d, **how)


def answer(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> dict[str, Array]:
    """y, dx and dA_n, dB_n for n of q, k, v, o."""
    y, pullback = forward(arrays, config, d)
    return {"y": y, **gradients(pullback(arrays["dy"]))}


def shapes(C: int, D: int, *, n_heads: int, n_kv_heads: int, **_: Any) -> dict[str, tuple[int, int]]:
    """(out, in) of each projection."""
    q, kv = n_heads * D, n_kv_heads * D
    return {"q": (q, C), "k": (kv, C), "v": (kv, C), "o": (C, q)}


def block(
    draw: Draw, B: int, T: int, C: int, D: int, hidden: list[list[int]] | None, **config: Any
) -> tuple[dict[str, np.ndarray], Config]:
    """hidden: for each batch row, the positions whose keys may not be seen. C is a multiple of the number of heads,
    which libraries ask for, and not heads * D.

    Weights of q and k are half the usual size: scores of a few units keep the softmax from saturating, and so its
    errors, and with them what must be allowed, small.
    """
    arrays = {"x": draw.normal(B, T, C)}
    for n, (out, in_) in shapes(C, D, **config).items():
        small = 0.5 if n in "qk" else 1.0
        arrays[f"W{n}"] = draw.normal(out, in_, std=small / math.sqrt(in_))
        arrays[f"A_{n}"] = draw.normal(config["r"], in_, std=1 / math.sqrt(in_))
        arrays[f"B_{n}"] = draw.normal(out, config["r"], std=small / math.sqrt(config["r"]))
    arrays["dy"] = draw.normal(B, T, C)
    if hidden is not None:
        arrays["key_mask"] = np.asarray([[t not in row for t in range(T)] for row in hidden])
    return arrays, config


def _causal_rope(draw: Draw) -> tuple[dict[str, np.ndarray], Config]:
    config = lora(3, 2, n_heads=4, n_kv_heads=2, causal=True, rope_theta=10240.0)
    return block(draw, 2, 5, 12, 4, None, **config)


def _padded(draw: Draw) -> tuple[dict[str, np.ndarray], Config]:
    """Padding on the right of one row and within another: every query sees a key."""
    config = lora(2, 3, use_rslora=True, n_heads=4, n_kv_heads=2, causal=True, rope_theta=500.0)
    return block(draw, 3, 4, 8, 4, [[3], [], [1, 2]], **config)


def _left_padded(draw: Draw) -> tuple[dict[str, np.ndarray], Config]:
    """Padding on the left: the first queries of the row may see no key, and give zeros before Wo."""
    config = lora(2, 3, n_heads=2, n_kv_heads=1, causal=True, rope_theta=10240.0)
    return block(draw, 2, 4, 10, 4, [[0, 1], []], **config)


def _bidirectional(draw: Draw) -> tuple[dict[str, np.ndarray], Config]:
    """No rope, no causal mask, as many key/value heads as heads in three groups of one."""
    config = lora(3, 4, n_heads=3, n_kv_heads=3, causal=False, rope_theta=None)
    return block(draw, 2, 4, 9, 2, [[], [0, 3]], **config)


def _exact_one_key(draw: Draw) -> tuple[dict[str, np.ndarray], Config]:
    """Each row shows one key, which its first query or only its second may see. q is 0 in the second coordinate of each
    head and k in the first, so a score is a sum of zeros, and its weight exp(0) / exp(0) = 1.
    """
    config = lora(2, 8, n_heads=2, n_kv_heads=1, causal=True, rope_theta=None)
    arrays, config = block(draw, 2, 2, 2, 2, [[1], [0]], **config)
    for n, zero in {"q": 1, "k": 0}.items():
        arrays[f"W{n}"][zero::2] = 0
        arrays[f"B_{n}"][zero::2] = 0
    return arrays, config


def _sums(arrays: Mapping[str, Array], config: Config) -> dict[str, Array]:
    """What is summed where each query sees at most one key, and its score is 0: attention hands on that key's value.

    The scores' gradients are dP - dP = 0, if dP = <gradient of a head, v> is not rounded: summed over all heads it is
    <dy, y>.
    """
    outputs = answer(arrays, config, RIGHT.wrapped(attention=_values_alone))
    xp = arrays["x"].__array_namespace__()
    return {**outputs, "dP": xp.sum(arrays["dy"] * outputs["y"], axis=-1)}


def _values_alone(attention: Callable[..., tuple[Array, Pullback]]) -> Callable[..., tuple[Array, Pullback]]:
    """The same attention; in its backward q and k, which only make the scores, get zeros."""

    def wrapped(q: Array, k: Array, v: Array, **how: Any) -> tuple[Array, Pullback]:
        y, pullback = attention(q, k, v, **how)
        zeros = {"q": 0.0 * q, "k": 0.0 * k}
        return y, Pullback(lambda dy, wrt: {**pullback(dy, wrt=("v",)), **zeros}, y, inputs=("q", "k", "v"))

    return wrapped


CONTRACT = Contract(
    "lora_attention",
    answer,
    {
        "causal-rope": _causal_rope,
        "padded-rslora": _padded,
        "left-padded": _left_padded,
        "bidirectional": _bidirectional,
    },
    forward,
    exact={"exact-one-key": _exact_one_key},
    proof=_sums,
)
