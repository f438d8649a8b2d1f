"""Every op of npl_lora.ops at a small point in general position: no two sizes equal, nothing 0 or 1."""

from collections.abc import Callable
from typing import Any

import numpy as np

from npl_lora import ops

IDS = np.array([[1, 4, 1], [0, 1, 3]])  # token 1 three times, token 2 never


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def mask(*shape: int) -> np.ndarray:
    """A dropout mask: zeros, and 1 / (1 - p) with p = 0.2."""
    return np.where(normal(*shape, seed=1) > -0.5, 1.25, 0.0)


LINEAR = dict(x=normal(2, 3, 5), W=normal(4, 5), b=normal(4))
LORA = dict(**LINEAR, A=normal(2, 5), B=normal(4, 2), mask=mask(2, 3, 5), scale=0.7)
EMBEDDING = dict(ids=IDS, E=normal(6, 4))
LORA_EMBEDDING = dict(**EMBEDDING, A=normal(3, 6), B=normal(4, 3), scale=0.7)
DROPPED_EMBEDDING = LORA_EMBEDDING | dict(mask=mask(2, 3, 3))
MERGE = dict(W=normal(4, 5), A=normal(2, 5), B=normal(4, 2), scale=0.7)
MERGE_TURNED = MERGE | dict(W=normal(5, 4), fan_in_fan_out=True)
COMBINE = dict(A_1=normal(2, 5), B_1=normal(4, 2), A_2=normal(3, 5), B_2=normal(4, 3), weight=-0.7, scale=1.3)


def combine(weight: Any, scale: Any, **factors: Any) -> Any:
    """The numbers by name, as the exact check wants them."""
    return ops.combine(weights=(weight, scale), scales=(scale, scale), **factors)


def _unmerge(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"W_merged" if name == "W" else name: value for name, value in inputs.items()}


def embedding_with_padding(ids: Any, E: Any, A: Any = None, B: Any = None, scale: Any = None) -> Any:
    """The padding token's row is held constant: then its zero gradient, a convention, is the derivative."""
    E = np.where(np.arange(E.shape[0])[:, None] == 1, 7, E)
    if A is None:
        return ops.embedding(ids, E, padding_idx=1)
    A = np.where(np.arange(A.shape[1])[None, :] == 1, 3, A)
    return ops.lora_embedding(ids, E, A, B, scale=scale, padding_idx=1)


LAYER = dict(x=normal(2, 3, 5), W=normal(4, 5), A=normal(2, 5), B=normal(4, 2), m=normal(4), b=normal(4, seed=1))
DORA = LAYER | dict(n=np.array([0.5, 1.5, 2.0, 0.75]), scale=0.7)  # n given: the backward holds it constant
CONV = dict(x=normal(2, 3, 4, 5), W=normal(4, 3, 2, 3), A=normal(2, 3, 2, 3), B=normal(4, 2, 1, 1), scale=0.7)
PLACES = dict(stride=(2, 1), padding=(1, 0), dilation=(1, 2))

Case = tuple[Callable[..., Any], dict[str, Any]]

# Polynomials of their inputs, affine in each alone.
AFFINE: dict[str, Case] = {
    "linear": (ops.linear, LINEAR),
    "linear without b": (ops.linear, dict(x=normal(3, 5), W=normal(4, 5), b=None)),
    "lora_linear": (ops.lora_linear, LORA),
    "lora_linear plain": (ops.lora_linear, LORA | dict(b=None, mask=None)),
    "embedding": (ops.embedding, EMBEDDING),
    "embedding with padding": (embedding_with_padding, EMBEDDING),
    "lora_embedding": (ops.lora_embedding, LORA_EMBEDDING),
    "lora_embedding dropped": (ops.lora_embedding, DROPPED_EMBEDDING),
    "lora_embedding with padding": (embedding_with_padding, LORA_EMBEDDING),
    "dropout": (ops.dropout, dict(x=normal(3, 4), mask=mask(3, 4))),
    "merge": (ops.merge, MERGE),
    "merge turned": (ops.merge, MERGE_TURNED),
    "combine": (combine, COMBINE),
    "patches": (ops.patches, dict(x=normal(2, 3, 4, 5), kernel=(2, 3), **PLACES)),
    "lora_conv2d": (ops.lora_conv2d, CONV | PLACES),
    "unmerge": (ops.unmerge, _unmerge(MERGE)),
    "unmerge turned": (ops.unmerge, _unmerge(MERGE_TURNED)),
}

_HEADS = dict(q=normal(2, 4, 3, 5), k=normal(2, 2, 4, 5), v=normal(2, 2, 4, 3))
_SEEN = np.array([[True, False, True, True], [False, True, True, False]])
_ATTENTION = dict(x=normal(2, 3, 5), Wq=normal(8, 5), Wk=normal(4, 5), Wv=normal(4, 5, seed=2), Wo=normal(5, 8))
_ATTENTION |= dict(A_q=normal(2, 5), B_q=normal(8, 2), A_k=normal(2, 5, seed=3), B_k=normal(4, 2))
_ATTENTION |= dict(A_v=normal(2, 5, seed=4), B_v=normal(4, 2, seed=5), A_o=normal(2, 8), B_o=normal(5, 2))
_ATTENTION |= dict(scale=0.3, n_heads=4, n_kv_heads=2, causal=True)
_MLP = dict(x=normal(3, 4), W_gate=normal(5, 4), W_up=normal(5, 4, seed=2), W_down=normal(4, 5))
_LORA_MLP = _MLP | dict(A_gate=normal(2, 4), B_gate=normal(5, 2), A_up=normal(2, 4, seed=2), scale=0.7)
_LORA_MLP |= dict(B_up=normal(5, 2, seed=2), A_down=normal(2, 5), B_down=normal(4, 2))
_LOGITS = dict(logits=normal(2, 3, 5), labels=np.array([[1, -100, 4], [0, 2, 2]]))

SMOOTH: dict[str, Case] = {
    "softmax": (ops.softmax, dict(x=normal(3, 5))),
    "softmax masked": (ops.softmax, dict(x=normal(2, 4), mask=_SEEN)),
    "attention": (ops.attention, _HEADS),
    "attention causal": (ops.attention, _HEADS | dict(causal=True, offset=1, window=2, scale=0.4)),
    "attention masked": (ops.attention, _HEADS | dict(key_mask=_SEEN, causal=True)),
    "dora_linear": (ops.dora_linear, DORA),
    "rope": (ops.rope, dict(x=normal(2, 3, 4), start=2)),
    "rope interleaved": (ops.rope, dict(x=normal(2, 3, 4), interleaved=True, theta=50.0)),
    "rms_norm": (ops.rms_norm, dict(x=normal(3, 5), w=normal(5))),
    "layer_norm": (ops.layer_norm, dict(x=normal(3, 5), w=normal(5), b=normal(5, seed=1))),
    "relu": (ops.relu, dict(z=normal(3, 5))),
    "silu": (ops.silu, dict(z=normal(3, 5))),
    "gelu": (ops.gelu, dict(z=normal(3, 5))),
    "gelu_tanh": (ops.gelu_tanh, dict(z=normal(3, 5))),
    "tanh": (ops.tanh, dict(z=normal(3, 5))),
    "masked_mean": (ops.masked_mean, dict(x=normal(2, 4, 3), mask=_SEEN)),
    "glu": (ops.glu, dict(gate=normal(3, 5), up=normal(3, 5, seed=1))),
    "gated_mlp": (ops.gated_mlp, _MLP),
    "lora_mlp": (ops.lora_mlp, _LORA_MLP),
    "lora_attention": (ops.lora_attention, _ATTENTION),
    "lora_attention with rope": (ops.lora_attention, _ATTENTION | dict(rope_theta=30.0)),
    "cross_entropy": (ops.cross_entropy, _LOGITS),
    "cross_entropy of a window": (ops.cross_entropy, _LOGITS | dict(count=9)),
    "mean_squared_error": (
        ops.mean_squared_error,
        dict(prediction=normal(3, 5), target=normal(3, 5, seed=1)),
    ),
}

ALL = AFFINE | SMOOTH
