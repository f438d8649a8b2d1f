"""What an adapter's files hold, and whether they are healthy. No model is needed.

Everything is read from adapter_config.json and adapter_model.safetensors. What is wrong with them is collected and not
raised, and each finding says what PEFT does with it. (PEFT loads a file with strict=False: it leaves out what it does
not know, and warns of what it misses.)

Source: PEFT 0.21.2, set_peft_model_state_dict in utils/save_and_load.py and PeftModel.load_adapter, and trials of each
finding.
"""

import codecs
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..lora.scale import lora_scale
from ..lora.spectrum import decompose, effective_rank
from ..support.finite import describe_nonfinite, is_finite
from ..support.quoting import quote_name, quote_value
from ..support.tensor_file import TensorFileError, json_object
from ._folder import find_problem
from ._pairs import FACTOR, PREFIX, Pair, read_tensors, sort_tensors
from ._targets import alpha_of, is_saved, is_targeted, rank_of
from .config import ConfigError, LoRAConfig
from .files import CONFIG, TENSORS, AdapterError
from .lora import HEADS

_DEFAULT = "default"  # the one adapter's name that PEFT takes in a key
_TARGETS = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save", "bias")
# The fields that say where A and B are, and what scale they have.
_USED = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", *_TARGETS)

_RANDOM = "PEFT warns of missing keys, and starts the layer anew: it is not what was trained"
_IGNORED = "PEFT leaves it out, without a word"
_SPREADS = "PEFT loads it, and what it computes with it is not finite either"
_MISMATCH = "PEFT raises RuntimeError, size mismatch"


@dataclass(frozen=True)
class Layer:
    """One module with its factors. kind: "linear" or "embedding". norm: Frobenius norm of s B A, the root of the sum of
    the squared singular values. zero: the factors that are all 0, "A", "B", "AB" or ""."""

    path: str
    kind: str
    shape: tuple[int, int]
    rank: int
    scale: float
    norm_A: float
    norm_B: float
    norm: float
    singular_values: tuple[float, ...]
    effective_rank: float
    zero: str


@dataclass(frozen=True)
class Finding:
    """What is wrong, and what PEFT does with it: two clauses without a full stop."""

    says: str
    peft: str


@dataclass(frozen=True)
class Inspection:
    """method: as people call it, for example "LoRA (rsLoRA scale)". dtypes: of the tensors. others: {name: shape} of
    tensors that are no factors. layers: those whose factors can be multiplied."""

    method: str
    rank: int
    alpha: float
    init: Any
    base_model: str | None
    dtypes: tuple[str, ...]
    parameters: int
    layers: tuple[Layer, ...]
    others: Mapping[str, tuple[int, ...]]
    findings: tuple[Finding, ...]


def inspect(folder: Path) -> Inspection:
    """Inspect the adapter in a folder. Raises AdapterError for files that cannot be read at all, or hold no LoRA."""
    if problem := find_problem(folder):
        raise AdapterError(problem)
    about = _read_config(folder / CONFIG)
    tensors = read_tensors(folder / TENSORS)
    try:
        return _inspect(about, tensors)
    except ConfigError as error:
        raise AdapterError(f"{folder / CONFIG}: {error}") from None


def _inspect(about: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Inspection:
    config = LoRAConfig(**{name: about[name] for name in _USED if about.get(name) is not None})
    pairs, others = sort_tensors(tensors)
    layers, findings = list[Layer](), list(_findings_of_tensors(tensors))
    for (path, kind), pair in pairs.items():
        findings += _findings_of_pair(config, path, pair, bool(about.get("ensure_weight_tying")))
        if _can_be_multiplied(pair):
            layer = _layer(config, path, kind, pair)
            layers.append(layer)
            findings += _findings_of_layer(layer)
    paths = {path for path, _ in pairs}
    findings += _findings_of_config(config, about, paths, others)
    return Inspection(
        method=_method(about, others),
        rank=config.r,
        alpha=config.lora_alpha,
        init=about.get("init_lora_weights", True),
        base_model=about.get("base_model_name_or_path"),
        dtypes=tuple(sorted({array.dtype.name for array in tensors.values()})),
        parameters=sum(array.size for array in tensors.values()),
        layers=tuple(layers),
        others={name: array.shape for name, array in others.items()},
        findings=tuple(findings),
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        about = json_object(path.read_bytes().removeprefix(codecs.BOM_UTF8), "it")
    except OSError as error:
        raise AdapterError(f"{path}: {error.strerror}") from None
    except TensorFileError as error:
        raise AdapterError(f"{path}: {error}") from None
    if about.get("peft_type", "LORA") != "LORA":
        raise AdapterError(f"{path}: peft_type is {quote_value(about['peft_type'])}, expected 'LORA'")
    return about


def _matrix(array: np.ndarray) -> np.ndarray:
    """A factor as a matrix. Those of a convolution are A (r, in, k, k) and B (out, r, 1, 1)."""
    return array.reshape(array.shape[0], -1)


def _can_be_multiplied(pair: Pair) -> bool:
    fit = len(pair) == 2 and all(array.ndim >= 2 and array.size for array in pair.values())
    return fit and _matrix(pair["B"]).shape[1] == pair["A"].shape[0] and all(map(_is_finite_float, pair.values()))


def _is_finite_float(array: np.ndarray) -> bool:
    return array.dtype.kind in "fV" and is_finite(_in_float32(array))


def _in_float32(array: np.ndarray) -> np.ndarray:
    """What is computed with. What is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _layer(config: LoRAConfig, path: str, kind: str, pair: Pair) -> Layer:
    A, B = (_matrix(pair[factor]).astype(np.float64) for factor in "AB")
    scale = lora_scale(A.shape[0], alpha_of(config, path), config.use_rslora)
    _, S, _ = decompose(A, B, scale)
    shape = (B.shape[0], A.shape[1])
    return Layer(
        path,
        kind,
        shape if kind == "linear" else shape[::-1],
        A.shape[0],
        scale,
        float(np.linalg.norm(A)),
        float(np.linalg.norm(B)),
        float(np.linalg.norm(S)),
        tuple(float(value) for value in S),
        effective_rank(S),
        "".join(factor for factor, array in (("A", A), ("B", B)) if not array.any()),
    )


def _findings_of_tensors(tensors: Mapping[str, np.ndarray]) -> Iterator[Finding]:
    for key, array in tensors.items():
        name = quote_name(key)
        if not array.size:
            yield Finding(f"{name} is empty, {array.shape}, as ZeRO-3 leaves what other processes hold", _MISMATCH)
        elif array.dtype.kind not in "fV":
            yield Finding(f"{name} has dtype {array.dtype}, expected a floating dtype", "PEFT loads it as numbers")
        elif not is_finite(narrow := _in_float32(array)):
            yield Finding(describe_nonfinite(name, narrow, array), _SPREADS)
    for says, keys in _odd_names(tensors).items():
        yield Finding(f"{_some(keys)} {says}", "PEFT leaves it out, and warns of missing keys")


def _odd_names(tensors: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    """{what is odd: the keys}: keys of factors that PEFT does not recognise."""
    odd: dict[str, list[str]] = {}
    for key in tensors:
        found = FACTOR.fullmatch(key)
        if found and not key.startswith(PREFIX):
            odd.setdefault(f"does not begin with {PREFIX}", []).append(key)
        elif found and found["name"] not in (None, _DEFAULT):
            odd.setdefault(f"has the adapter's name, {quote_name(found['name'])}, in it", []).append(key)
    return odd


def _findings_of_pair(config: LoRAConfig, path: str, pair: Pair, tied: bool) -> Iterator[Finding]:
    """What the factors' shapes and the configuration say against each other. tied: ensure_weight_tying, with which PEFT
    adapts the other end of the embedding too."""
    name = quote_name(path)
    if len(pair) == 1:
        (there,) = pair
        yield Finding(f"{name} has {there} and no {'B' if there == 'A' else 'A'}", _RANDOM)
    if odd := [factor for factor, array in pair.items() if array.size and array.ndim < 2]:
        yield Finding(f"{name}: {odd[0]} has shape {pair[odd[0]].shape}, expected a matrix", _MISMATCH)
        return
    ranks = {f: a.shape[0] if f == "A" else _matrix(a).shape[1] for f, a in sorted(pair.items()) if a.size}
    if len(set(ranks.values())) == 2:
        shapes = " and ".join(f"{factor} {pair[factor].shape}" for factor in "AB")
        yield Finding(f"{name}: {shapes} cannot be multiplied, expected A (r, in) and B (out, r)", _MISMATCH)
    elif ranks and (rank := next(iter(ranks.values()))) != rank_of(config, path):
        expected = rank_of(config, path)
        yield Finding(f"{name} has rank {rank} in its tensors, and {expected} by {CONFIG}", _MISMATCH)
    if not (config.target_modules is None or tied or is_targeted(config, path)):
        yield Finding(f"{name} has A and B, and is no target by {CONFIG}", _IGNORED)


def _findings_of_layer(layer: Layer) -> Iterator[Finding]:
    """A new adapter has B = 0 on a linear layer, and A = 0 on an embedding."""
    if layer.zero:
        began = "A" if layer.kind == "embedding" else "B"
        never = "it never trained" if began in layer.zero else "it changes nothing"
        are = "is" if len(layer.zero) == 1 else "are"
        factors = " and ".join(layer.zero)
        yield Finding(f"{quote_name(layer.path)}: {factors} {are} 0, so {never}", "PEFT loads it: it changes nothing")


def _findings_of_config(
    config: LoRAConfig, about: Mapping[str, Any], paths: set[str], others: Mapping[str, np.ndarray]
) -> Iterator[Finding]:
    """What the configuration promises, and no tensor keeps; and tensors that it does not name."""
    for target in config.target_modules if isinstance(config.target_modules, tuple) else ():
        if not any(path == target or path.endswith(f".{target}") for path in paths):
            yield Finding(
                f"target_modules has {quote_value(target)}, and no tensor belongs to such a module",
                f"where the model has one, {_RANDOM}",
            )
    optional = HEADS if about.get("task_type") == "SEQ_CLS" else ()
    for name in config.modules_to_save or ():
        alone = LoRAConfig(modules_to_save=(name,))
        if name not in optional and not any(is_saved(alone, other.rpartition(".")[0]) for other in others):
            yield Finding(
                f"modules_to_save has {quote_value(name)}, and no tensor belongs to it",
                "where the model has such a module, PEFT raises KeyError",
            )
    for flag, ending in (("use_dora", "lora_magnitude_vector"), ("lora_bias", "lora_B.bias")):
        there = [name for name in others if name.removesuffix(".weight").endswith(ending)]
        if about.get(flag) and not there:
            yield Finding(f"{flag} is true, and no tensor ends in {ending}", _RANDOM)
        if there and not about.get(flag):
            yield Finding(f"{quote_name(there[0])} is there, and {flag} is not true", _IGNORED)


def _method(about: Mapping[str, Any], others: Mapping[str, np.ndarray]) -> str:
    extras = ["rsLoRA's scale"] if about.get("use_rslora") else []
    extras += ["bias of B"] if about.get("lora_bias") else []
    full = sum(".lora_" not in name for name in others)
    extras += [f"{full} tensors trained in full"] if full else []
    name = "DoRA" if about.get("use_dora") else "LoRA"
    return name + (f" with {', '.join(extras)}" if extras else "")


def _some(keys: list[str]) -> str:
    more = f" (and {len(keys) - 1} more keys)" if len(keys) > 1 else ""
    return f"{quote_name(keys[0])}{more}"


def as_json(inspection: Inspection) -> dict[str, Any]:
    """The inspection as an object for JSON."""
    plain = {field.name: getattr(inspection, field.name) for field in fields(inspection)}
    rows = {name: [vars(one) for one in plain[name]] for name in ("layers", "findings")}
    return {**plain, **rows, "others": {name: list(shape) for name, shape in inspection.others.items()}}
