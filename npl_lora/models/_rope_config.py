"""The angles of rope from a config.json: how far each pair of features turns from one position to the next.

    plain      f_i = theta^(-2i / D)
    linear     f_i / factor
    llama3     f_i / factor for pairs that turn seldom in the original context, f_i for those that turn often
    yarn       the same with a ramp over i; cos and sin are also multiplied by 0.1 ln(factor) + 1
    dynamic    a larger theta for texts beyond max_position_embeddings
    longrope   f_i over factors of its own, others for texts beyond the original context

Source: Su et al. 2021; Llama 3.1's configuration; Peng et al., "YaRN", 2023, for yarn and dynamic; transformers 5.23.0,
modeling_rope_utils.py, for the fields.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..support.quoting import quote_value
from ._config import ModelError, read_choice, read_integer, read_number

_Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Rope:
    """frequencies: D/2 angles per position. factor: on cos and sin. positions: the longest text.

    A text of more than `plain_positions` tokens has other angles: longer, or dynamic ones by theta and stretch.
    """

    frequencies: tuple[float, ...]
    positions: int
    factor: float = 1.0
    theta: float = 0.0
    stretch: float = 1.0
    plain_positions: int = 0
    longer: tuple[float, ...] | None = None

    def at(self, length: int) -> tuple[float, ...]:
        """The angles in a text of so many tokens."""
        if length <= self.plain_positions or (self.longer is None and self.stretch == 1.0):
            return self.frequencies
        if self.longer is not None:
            return self.longer
        D = 2 * len(self.frequencies)
        longer = self.stretch * length / self.plain_positions - (self.stretch - 1.0)
        return _plain(self.theta * longer ** (D / (D - 2)), D)


def read_rope(fields: _Fields, head_size: int, positions: int) -> Rope:
    """The angles that config.json asks for. Raises ModelError."""
    rope = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    if isinstance(rope, dict) and rope.get("original_max_position_embeddings") is None:
        rope = {**rope, "original_max_position_embeddings": fields.get("original_max_position_embeddings")}
    if not isinstance(rope, dict):
        raise ModelError(f"config.json has {quote_value(rope)} for rope, expected an object")
    if read_number({**fields, **rope}, "partial_rotary_factor", 1.0) != 1.0:
        raise ModelError("config.json has a partial_rotary_factor, expected rope on all features of a head")
    theta = read_number({**fields, **rope}, "rope_theta", 10000.0)
    plain = _plain(theta, head_size)
    kind = read_choice(rope, "rope_type", rope.get("type", "default"), ("default", *_SCALED))
    return Rope(plain, positions) if kind == "default" else _SCALED[kind](plain, rope, positions, theta)


def _plain(theta: float, head_size: int) -> tuple[float, ...]:
    return tuple(theta ** (-2.0 * i / head_size) for i in range(head_size // 2))


def _linear(plain: tuple[float, ...], rope: _Fields, positions: int, theta: float) -> Rope:
    factor = read_number(rope, "factor")
    return Rope(tuple(f / factor for f in plain), positions)


def _llama3(plain: tuple[float, ...], rope: _Fields, positions: int, theta: float) -> Rope:
    """By how many turns a pair makes in the original context. Below low_freq_factor turns its angle is divided by the
    factor. Above high_freq_factor turns it stays. Between the two it is interpolated."""
    factor, original = read_number(rope, "factor"), read_integer(rope, "original_max_position_embeddings", positions)
    low, high = read_number(rope, "low_freq_factor"), read_number(rope, "high_freq_factor")
    if not low < high:
        raise ModelError(f"config.json has low_freq_factor = {low} and high_freq_factor = {high}, expected low < high")
    turns = (original * f / (2.0 * math.pi) for f in plain)
    shares = [min(max((t - low) / (high - low), 0.0), 1.0) for t in turns]
    return Rope(_mixed(plain, factor, shares), positions)


def _yarn(plain: tuple[float, ...], rope: _Fields, positions: int, theta: float) -> Rope:
    """The pair that makes beta turns in the original context is i = D ln(original / (2 pi beta)) / (2 ln theta). Up to
    that of beta_fast the angles stay, from that of beta_slow on they are divided by the factor."""
    original, D = read_integer(rope, "original_max_position_embeddings", positions), 2 * len(plain)
    factor = read_number(rope, "factor", positions / original)
    if theta == 1.0:
        raise ModelError("config.json has rope_theta = 1, expected another for yarn")
    fast, slow = (
        D * math.log(original / (2.0 * math.pi * (read_number(rope, name, beta) or beta))) / (2.0 * math.log(theta))
        for name, beta in (("beta_fast", 32.0), ("beta_slow", 1.0))
    )
    if rope.get("truncate", True):
        fast, slow = math.floor(fast), math.ceil(slow)
    first, last = max(fast, 0), min(slow, D - 1)
    last = last + 0.001 if first == last else last
    shares = [1.0 - min(max((i - first) / (last - first), 0.0), 1.0) for i in range(D // 2)]
    return Rope(_mixed(plain, factor, shares), positions, _attention_factor(rope, factor))


def _attention_factor(rope: _Fields, factor: float) -> float:
    """What yarn multiplies cos and sin by."""

    def scaled(mscale: float) -> float:
        return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1.0 else 1.0

    if rope.get("attention_factor") is not None:
        return read_number(rope, "attention_factor")
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return scaled(read_number(rope, "mscale")) / scaled(read_number(rope, "mscale_all_dim"))
    return scaled(1.0)


def _dynamic(plain: tuple[float, ...], rope: _Fields, positions: int, theta: float) -> Rope:
    stretch = read_number(rope, "factor")
    if len(plain) < 2:
        raise ModelError("config.json has heads of size 2, expected more for dynamic rope")
    longest = max(positions, min(int(stretch * positions), 1 << 31))
    return Rope(plain, longest, theta=theta, stretch=stretch, plain_positions=positions)


def _longrope(plain: tuple[float, ...], rope: _Fields, positions: int, theta: float) -> Rope:
    """LongRoPE (Ding et al. 2024). cos and sin are multiplied by sqrt(1 + ln(factor) / ln(original))."""
    original = read_integer(rope, "original_max_position_embeddings", positions, least=2)
    short, long = (_divided(plain, rope, name) for name in ("short_factor", "long_factor"))
    if rope.get("attention_factor") is not None:
        factor = read_number(rope, "attention_factor")
    else:
        ratio = read_number(rope, "factor", positions / original)
        factor = math.sqrt(1.0 + math.log(ratio) / math.log(original)) if ratio > 1.0 else 1.0
    return Rope(short, positions, factor, plain_positions=original, longer=long)


def _divided(plain: tuple[float, ...], rope: _Fields, name: str) -> tuple[float, ...]:
    factors = rope.get(name)
    if not isinstance(factors, list) or len(factors) != len(plain):
        raise ModelError(f"config.json has {name} = {quote_value(factors)}, expected {len(plain)} numbers")
    return tuple(f / read_number({name: factor}, name) for f, factor in zip(plain, factors, strict=True))


def _mixed(plain: tuple[float, ...], factor: float, shares: list[float]) -> tuple[float, ...]:
    """The plain angles by their shares, the rest of each divided by the factor."""
    return tuple((1.0 - share) * f / factor + share * f for f, share in zip(plain, shares, strict=True))


_SCALED: Mapping[str, Callable[[tuple[float, ...], _Fields, int, float], Rope]] = {
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "dynamic": _dynamic,
    "longrope": _longrope,
}
