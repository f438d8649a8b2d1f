"""Several adapters as one: the sum of their changes of each weight, exactly or nearly.

    exact       delta = sum_i w_i s_i B_i A_i
    cat         A = [w_1 s_1 A_1 ; w_2 s_2 A_2 ; ...],  B = [B_1 | B_2 | ...]          exact, of rank r_1 + r_2 + ...
    svd         A = V^T,  B = U S, the largest singular values of delta                the nearest of its rank
    linear      A = sum_i sign(w_i s_i) sqrt|w_i s_i| A_i,  B = sum_i sqrt|w_i s_i| B_i

linear also has the products B_i A_j of different adapters, so it is no sum: it is here because PEFT has it. w_i are the
weights, s_i the scales. The new adapter's own scale is 1. A layer that an adapter does not have gets nothing from it.

The error is |BA - delta| / |delta| over all layers, in Frobenius norms, with the numbers as they are written. BA -
delta is a product of factors side by side, too, so nothing (out, in) is formed.

Source: `ops.combine`; PEFT 0.21.2, LoraModel.add_weighted_adapter; Eckart and Young 1936 for svd.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..lora.scale import lora_scale
from ..lora.spectrum import decompose
from ..support.finite import describe_first_nonfinite
from ..support.quoting import quote_name
from ._pairs import read_tensors, sort_tensors
from ._targets import alpha_of, rank_of
from .config import ConfigError, LoRAConfig, changes_base
from .files import CONFIG, TENSORS, AdapterError, load_config
from .lora import Factors, LoRA

WAYS = ("cat", "linear", "svd")


@dataclass(frozen=True)
class Part:
    """One adapter's change of a layer, share B A. A (r, in), B (out, r)."""

    share: float
    A: np.ndarray
    B: np.ndarray


Layers = dict[tuple[str, str], list[Part]]  # by the module's path and kind, "linear" or "embedding"


def read_layers(folders: Sequence[Path], weights: Sequence[float]) -> Layers:
    """The parts of every layer, from the adapters' files. Raises AdapterError for an adapter that is more than A and B,
    or that was made for another model than the first."""
    layers: Layers = {}
    for folder, weight in zip(folders, weights, strict=True):
        for key, part in _read_parts(folder, weight).items():
            _check_like_the_first(folder, key[0], part, layers.setdefault(key, []))
            layers[key].append(part)
    if len({name for name, _ in layers}) < len(layers):
        raise AdapterError("the adapters were made for different models: a linear layer of one is another's embedding")
    return layers


def combine(layers: Layers, way: str, like: LoRAConfig, rank: int | None = None) -> LoRA:
    """The new adapter in float32, ready for `files.save`. way: one of WAYS. like: the configuration of one that was
    combined. rank: of svd; by default the largest of the layer's. Raises AdapterError for linear if ranks differ, and
    for numbers that are too large for float32."""
    parameters: dict[str, np.ndarray] = {}
    places, ranks = {}, {}
    for (path, kind), parts in layers.items():
        A, B = _combine_layer(path, parts, way, rank)
        ends = ("lora_embedding_A", "lora_embedding_B") if kind == "embedding" else ("lora_A.weight", "lora_B.weight")
        place = Factors(f"{path}.{ends[0]}", f"{path}.{ends[1]}", 1.0)
        places[path], ranks[path] = place, A.shape[0]
        parameters |= {place.A: A, place.B: B}
    with np.errstate(over="ignore"):
        narrow = {name: array.astype(np.float32) for name, array in parameters.items()}
    if problem := describe_first_nonfinite(narrow, parameters):
        raise AdapterError(f"nothing is written: {problem}")
    return LoRA(_config(ranks, like), narrow, places)


def error(layers: Layers, combined: LoRA) -> float:
    """|BA - delta| / |delta| over all layers; 0 if both are 0."""
    off = exact = 0.0
    for (path, _), parts in layers.items():
        place = combined.places[path]
        A, B = combined.parameters[place.A], combined.parameters[place.B]
        exact += _square(parts)
        off += _square([*parts, Part(-place.scale, A, B)])
    if not exact:
        return float("inf") if off else 0.0
    return float(np.sqrt(off / exact))


def combine_loaded(adapters: Sequence[LoRA], weights: Sequence[float], base: Mapping[str, np.ndarray]) -> LoRA:
    """Adapters of one model as one, exactly: the factors side by side, and of what they train in full the base's values
    and the sum of all changes. base: the model's tensors. To compute with, not to train or save: the configuration is
    the first one's. Raises AdapterError for what has no sum: DoRA, B's bias, tensors that are not the model's."""
    for adapter in adapters:
        _check_is_a_sum(adapter, base)
    parameters: dict[str, np.ndarray] = {}
    places: dict[str, Factors] = {}
    pairs = list(zip(adapters, weights, strict=True))
    factors = {name for adapter in adapters for place in adapter.places.values() for name in (place.A, place.B)}
    for path in dict.fromkeys(path for adapter in adapters for path in adapter.places):
        having = [(adapter, w * adapter.places[path].scale) for adapter, w in pairs if path in adapter.places]
        place = replace(having[0][0].places[path], scale=1.0)
        A, B = _side_by_side([Part(s, a.parameters[place.A], a.parameters[place.B]) for a, s in having])
        places[path], parameters[place.A], parameters[place.B] = place, A, B
    for name in dict.fromkeys(n for adapter in adapters for n in adapter.parameters if n not in factors):
        if any(a.parameters[name].shape != base[name].shape for a in adapters if name in a.parameters):
            raise AdapterError(f"{name} has another shape than the model's, and cannot be added up")
        changes = [w * (a.parameters[name] - base[name]) for a, w in pairs if name in a.parameters]
        parameters[name] = base[name] + sum(changes)
    config = replace(adapters[0].config, lora_dropout=0.0)
    return LoRA(config, parameters, places)


def _check_is_a_sum(adapter: LoRA, base: Mapping[str, np.ndarray]) -> None:
    """Whether the adapter changes the model by s B A and by tensors of the model that it trains in full, alone."""
    for path, place in adapter.places.items():
        if place.names != (place.A, place.B):
            more = quote_name(next(name for name in place.names if name not in (place.A, place.B)))
            raise AdapterError(f"{path} has {more} beside A and B, and cannot be added up with a weight")
    factors = {name for place in adapter.places.values() for name in place.names}
    own = [name for name in adapter.parameters if name not in factors and name not in base]
    if own := [*own, *adapter.frozen]:
        raise AdapterError(f"{quote_name(own[0])} is the adapter's own, and cannot be added up with a weight")


def _read_parts(folder: Path, weight: float) -> dict[tuple[str, str], Part]:
    """One adapter's part of each layer."""
    config, path = load_config(folder), folder / TENSORS
    if problem := changes_base(config):
        raise AdapterError(f"{folder / CONFIG}: {problem}")
    tensors = read_tensors(path)
    with np.errstate(over="ignore"):
        narrow = {name: array.astype(np.float32) for name, array in tensors.items()}
    if problem := describe_first_nonfinite(narrow, tensors):
        raise AdapterError(f"{path}: {problem}")
    pairs, others = sort_tensors(tensors)
    adapted = {name for name, _ in pairs}  # PEFT may save the frozen weight of such a layer too
    if more := [name for name in others if name.removesuffix(".weight") not in adapted]:
        advice = "" if ".lora_" in more[0] else ": `npl-lora merge` with several --adapter adds up more"
        raise AdapterError(f"{path} has {quote_name(more[0])}, and only A and B can be combined{advice}")
    parts = {}
    for (name, kind), pair in pairs.items():
        try:
            rank, alpha = rank_of(config, name), alpha_of(config, name)
        except ConfigError as error:
            raise AdapterError(f"{folder / CONFIG}: {error}") from None
        share = weight * lora_scale(rank, alpha, config.use_rslora)
        parts[name, kind] = _part(path, name, rank, pair, share)
    return parts


def _part(path: Path, name: str, rank: int, pair: Mapping[str, np.ndarray], share: float) -> Part:
    if len(pair) < 2:
        raise AdapterError(f"{path} lacks {'A' if 'B' in pair else 'B'} of {quote_name(name)}")
    A, B = pair["A"], pair["B"]
    if odd := [array.dtype for array in (A, B) if array.dtype.kind not in "fV"]:
        raise AdapterError(f"{path}: {quote_name(name)} has dtype {odd[0]}, expected a floating dtype")
    if A.ndim != 2 or B.ndim != 2 or not A.shape[0] == B.shape[1] == rank or 0 in (*A.shape, *B.shape):
        shapes = f"A {A.shape} and B {B.shape}"
        raise AdapterError(f"{path}: {quote_name(name)} has {shapes}, expected (r, in) and (out, r) with r = {rank}")
    return Part(share, A.astype(np.float64), B.astype(np.float64))


def _check_like_the_first(folder: Path, name: str, part: Part, before: list[Part]) -> None:
    shapes = [(one.B.shape[0], one.A.shape[1]) for one in (part, *before[:1])]
    if shapes[0] != shapes[-1]:
        raise AdapterError(
            f"{folder} was made for another model: {quote_name(name)} is {shapes[0]} there, {shapes[-1]} in the first"
        )


def _combine_layer(path: str, parts: list[Part], way: str, rank: int | None) -> tuple[np.ndarray, np.ndarray]:
    if way == "cat":
        return _side_by_side(parts)
    if way == "linear":
        if len({part.A.shape[0] for part in parts}) > 1:
            ranks = ", ".join(str(part.A.shape[0]) for part in parts)
            raise AdapterError(f"linear needs equal ranks, and {quote_name(path)} has {ranks}: take cat or svd")
        roots = [np.sqrt(abs(part.share)) for part in parts]
        A = sum(np.sign(part.share) * root * part.A for root, part in zip(roots, parts, strict=True))
        return np.asarray(A), np.asarray(sum(root * part.B for root, part in zip(roots, parts, strict=True)))
    U, S, Vt = decompose(*_side_by_side(parts), 1.0)
    keep = min(len(S), rank or max(part.A.shape[0] for part in parts))
    return Vt[:keep], U[:, :keep] * S[:keep]


def _side_by_side(parts: Sequence[Part]) -> tuple[np.ndarray, np.ndarray]:
    """A and B with BA = sum of share B A."""
    return np.concatenate([part.share * part.A for part in parts]), np.concatenate([part.B for part in parts], axis=1)


def _square(parts: Sequence[Part]) -> float:
    """The squared Frobenius norm of the sum."""
    return float(np.sum(np.square(decompose(*_side_by_side(parts), 1.0)[1])))


def _config(ranks: Mapping[str, int], like: LoRAConfig) -> LoRAConfig:
    """Targets by their whole paths; alpha = r, so the scale is 1. Layers of another rank have it in the patterns."""
    largest = max(ranks.values())
    pattern = {re.escape(path): rank for path, rank in ranks.items() if rank != largest}
    return LoRAConfig(
        r=largest,
        lora_alpha=largest,
        target_modules=tuple(ranks),
        rank_pattern=pattern,
        alpha_pattern=dict(pattern),
        fan_in_fan_out=like.fan_in_fan_out,
        other={name: like.other[name] for name in ("task_type", "base_model_name_or_path") if name in like.other},
    )
