"""A model continues a text, a token at a time.

Greedy at temperature 0: the token with the largest logit, the first of equals. Otherwise one is drawn from
softmax(logits / temperature), from among the fewest most likely ones whose probabilities add up to top_p.

Source: Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020, section 3.1, for top_p.
"""

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from ..adapters import Adapter
from ._cache import Cache
from ._model import Model


def generate(
    model: Model,
    tokens: Sequence[int],
    adapter: Adapter | None = None,
    *,
    max_tokens: int = 100,
    temperature: float = 0.0,
    top_p: float = 1.0,
    rng: np.random.Generator | int | None = None,
    stop: Collection[int] = (),
) -> Iterator[int]:
    """The tokens that follow, as they come: at most max_tokens, and none after one of `stop`.

    Weights that are coded are decoded for each token: for a model that fits in memory decoded, give `model.decode()`.
    Raises ValueError, before the first token, for what does not fit.
    """
    if not tokens:
        raise ValueError("tokens is empty, expected something to continue")
    if not (temperature >= 0 and np.isfinite(temperature)):
        raise ValueError(f"temperature is {temperature}, expected a number of at least 0")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}, expected 0 < top_p <= 1")
    room = model.config.positions - len(tokens)
    if room < 1:
        raise ValueError(f"tokens has {len(tokens)} of the model's {model.config.positions} positions: none is left")
    return _sample(model, list(tokens), adapter, min(max_tokens, room), temperature, top_p, rng, stop)


def _sample(
    model: Model,
    tokens: list[int],
    adapter: Adapter | None,
    count: int,
    temperature: float,
    top_p: float,
    rng: np.random.Generator | int | None,
    stop: Collection[int],
) -> Iterator[int]:
    rng, cache, new = np.random.default_rng(rng), Cache(model.config.n_layers, len(tokens) + count), tokens
    for _ in range(count):
        logits = model.next_logits(np.asarray([new]), adapter, cache)[0]
        token = choose(logits, temperature, top_p, rng)
        yield token
        if token in stop:
            return
        new = [token]


def choose(logits: np.ndarray, temperature: float, top_p: float, rng: np.random.Generator) -> int:
    """One token by its logits (V,)."""
    if temperature == 0:
        return int(np.argmax(logits))
    scaled = logits.astype(np.float64) / temperature
    p = np.exp(scaled - np.max(scaled))
    p /= np.sum(p)
    order = np.argsort(-p, kind="stable")
    kept = order[: int(np.searchsorted(np.cumsum(p[order]), top_p)) + 1]
    return int(rng.choice(kept, p=p[kept] / np.sum(p[kept])))
