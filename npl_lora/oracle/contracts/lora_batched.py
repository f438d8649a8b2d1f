"""lora_batched: a linear layer on a batch whose rows each have an adapter of their own, or none, as engines serve it.
An addition to protocol 1."""

from collections.abc import Mapping, Sequence

import numpy as np

from ...ops import Pullback
from ..definition import RIGHT, Definition
from .contract import Array, Config, Contract, Draw, gradients, inputs, scales, without_base

_RUBBISH = 8.0  # the standard deviation of what is in the padding: some thirty times that of a factor


def forward(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> tuple[Array, Pullback]:
    return d.lora_batched(**inputs(arrays), ranks=config["r"], scales=scales(config, d), ops=d)


def answer(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> dict[str, Array]:
    """y, dx, dA, dB."""
    y, pullback = forward(arrays, config, d)
    return {"y": y, **gradients(pullback(arrays["dy"]))}


def _adapters(r: Sequence[int], alpha: Sequence[int], rslora: Sequence[int] = ()) -> Config:
    """rslora: the adapters that use it, by number."""
    return {"r": list(r), "alpha": list(alpha), "use_rslora": [k in rslora for k in range(len(r))]}


def _batch(
    draw: Draw, ids: Sequence[int], tokens: tuple[int, ...], in_: int, out: int, R: int, config: Config
) -> dict[str, np.ndarray]:
    """A row for each id, of so many tokens; the factors padded with rubbish to the rank R."""
    N, K = len(ids), len(config["r"])
    A, B = draw.normal(K, R, in_, std=_RUBBISH), draw.normal(K, out, R, std=_RUBBISH)
    for k, r in enumerate(config["r"]):
        A[k, :r], B[k, :, :r] = draw.factors(out, in_, r)
    arrays = {"x": draw.normal(N, *tokens, in_), "W": draw.weight(out, in_), "A": A, "B": B}
    return {**arrays, "ids": np.asarray(ids, dtype=np.int64), "dy": draw.normal(N, *tokens, out)}


def _tokens(draw: Draw) -> tuple[dict[str, np.ndarray], Config]:
    """Single tokens, as in decoding, in no order."""
    config = _adapters([4, 2, 5, 3], [10, 3, 6, 7])
    return _batch(draw, [2, -1, 0, 3, 0, 2, 1, -1, 0, 1, 3], (), 12, 9, 6, config), config


def _segments(draw: Draw) -> tuple[dict[str, np.ndarray], Config]:
    """Some neighbouring rows share an adapter, and not in the order of the adapters. The first has none."""
    config = _adapters([3, 5, 2], [4, 2, 5])
    return _batch(draw, [-1, -1, 2, 2, 2, 0, 1, 1, 1, 1, -1, 0, 0], (), 10, 7, 5, config), config


def _sequences(draw: Draw) -> tuple[dict[str, np.ndarray], Config]:
    """Rows of several tokens, as when a prompt is read; two of the adapters have no row."""
    config = _adapters([2, 4, 3, 2, 3], [5, 6, 2, 3, 8], rslora=[2, 3])
    return {**_batch(draw, [4, 2, -1, 4, 1], (3,), 9, 11, 4, config), "b": draw.normal(11)}, config


def _unpadded(draw: Draw) -> tuple[dict[str, np.ndarray], Config]:
    """Adapters of one rank, so that nothing is padded; each has its own alpha."""
    config = _adapters([3, 3, 3], [7, 2, 5], rslora=[1])
    return _batch(draw, [1, 2, 0, 0, 2, 1, -1], (), 8, 10, 3, config), config


def _one_adapter(draw: Draw) -> tuple[dict[str, np.ndarray], Config]:
    """A single adapter, and W = 0, so that rows without it are 0."""
    config = _adapters([3], [5])
    return without_base(_batch(draw, [0, -1, 0, 0, -1, 0], (2,), 7, 9, 4, config), config)


def _exact_tokens(draw: Draw) -> tuple[dict[str, np.ndarray], Config]:
    config = _adapters([2, 4, 4], [8, 8, 16], rslora=[1])
    return _batch(draw, [1, -1, 2, 0, 2, -1, 1, 0], (), 4, 3, 5, config), config


def _exact_sequences(draw: Draw) -> tuple[dict[str, np.ndarray], Config]:
    config = _adapters([4, 2], [8, 8], rslora=[0])
    return {**_batch(draw, [1, 1, -1, 0], (2,), 3, 4, 4, config), "b": draw.normal(4)}, config


CONTRACT = Contract(
    "lora_batched",
    answer,
    {
        "tokens": _tokens,
        "segments": _segments,
        "sequences-bias-rslora": _sequences,
        "unpadded-rslora": _unpadded,
        "one-adapter-no-base": _one_adapter,
    },
    forward,
    exact={"exact-tokens": _exact_tokens, "exact-sequences-bias": _exact_sequences},
    terms={"y": ("x W^T", "s (x A^T) B^T"), "dx": ("dy W", "s (dy B) A")},
)
