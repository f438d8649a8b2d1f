"""Continue a text with a language model, one token at a time.

At temperature 0 the next token is the one with the largest logit, the first of several equal ones. Otherwise it is
drawn from softmax(logits / temperature), limited to the smallest set of most likely tokens with a total of top_p.

Source: Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020, section 3.1, for top_p.
"""

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from ..adapters import Adapter
from ..support.finite import is_finite
from ._cache import Cache
from ._model import Model


class LogitsError(ArithmeticError):
    """The logits of the next token are not finite, so no token can be chosen. The message is one sentence."""


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
    """The next tokens, one after another: at most max_tokens, and none after a token in `stop`.

    Quantised weights are decoded again for each token. If the decoded model fits in memory, pass `model.decode()`.
    Raises ValueError for arguments that do not fit, before the first token, and LogitsError where the logits are not
    finite.
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
    for number in range(1, count + 1):
        with np.errstate(all="ignore"):  # an overflow shows in the logits
            logits = model.next_logits(np.asarray([new]), adapter, cache)[0]
        if not is_finite(logits):
            raise LogitsError(f"the logits of new token {number} are not finite")
        token = choose(logits, temperature, top_p, rng)
        yield token
        if token in stop:
            return
        new = [token]


def choose(logits: np.ndarray, temperature: float, top_p: float, rng: np.random.Generator) -> int:
    """Choose one token by its logits (V,)."""
    if temperature == 0:
        return int(np.argmax(logits))
    scaled = logits.astype(np.float64) / temperature
    p = np.exp(scaled - np.max(scaled))
    p /= np.sum(p)
    order = np.argsort(-p, kind="stable")
    kept = order[: int(np.searchsorted(np.cumsum(p[order]), top_p)) + 1]
    return int(rng.choice(kept, p=p[kept] / np.sum(p[kept])))
