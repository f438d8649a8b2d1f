"""Which modules an adapter sits on, and with which rank and alpha. The rules are PEFT's.

A module's path is the checkpoint's own, for example model.layers.3.self_attn.q_proj.

Regular expressions come from the adapter's file and run in Python's `re`, as in PEFT. A repetition inside a repetition,
such as (a+)+$, can run practically forever, even on short paths. No test finds exactly these expressions without
refusing some that PEFT accepts, so none is refused. If loading an adapter hangs, this is the reason; Ctrl-C ends it.

Source: PEFT 0.21.2, check_target_module_exists in tuners/tuners_utils.py, get_pattern_key and
_set_trainable in utils/other.py.
"""

import re
import warnings
from collections.abc import Collection, Mapping
from functools import lru_cache
from itertools import accumulate
from typing import TypeVar

from ..support.quoting import quote_name, quote_value
from ._modules import Module
from .config import ConfigError, LoRAConfig

Value = TypeVar("Value")

ALL_LINEAR = "all-linear"


def find_targets(config: LoRAConfig, modules: Mapping[str, Module]) -> list[str]:
    """The paths of the modules that the configuration adapts, in the model's order. Raises ConfigError for a target
    that matches nothing, and if no module is left."""
    paths = list(modules)
    if config.target_modules == ALL_LINEAR:
        paths = [path for path, module in modules.items() if module.kind == "linear" and not module.output]
    chosen = [path for path in paths if is_targeted(config, path)]
    if isinstance(config.target_modules, tuple):
        idle = [t for t in config.target_modules if not any(_ends_in(path, (t,)) for path in paths)]
        if idle:
            raise ConfigError(
                f"target_modules has {quote_value(idle[0])}, which is the name of no module: {_some(paths)}"
            )
    if not chosen:
        raise ConfigError(f"target_modules, {quote_value(config.target_modules)}, leaves no module: {_some(paths)}")
    return chosen


def is_targeted(config: LoRAConfig, path: str) -> bool:
    """Whether one module is adapted."""
    if _is_excluded(config, path) or config.target_modules is None:
        return False
    if isinstance(config.target_modules, str):  # layers_to_transform does not apply to a regular expression
        return config.target_modules == ALL_LINEAR or _match(config.target_modules, path, whole=True) is not None
    if path in config.target_modules:
        return True
    return _ends_in(path, config.target_modules) and _in_layers(config, path)


def is_saved(config: LoRAConfig, path: str) -> bool:
    """Whether a module is trained in full, so that it gets no A and B."""
    return any(_match(rf"(^|.*\.){name}($|\..*)", path) for name in config.modules_to_save or ())


def is_in_full(names: Collection[str], tensor: str) -> bool:
    """Whether modules_to_save with these names trains this tensor: the path of a module that it is in ends in one of
    them. So "norm" names post_attention_layernorm too. (`is_saved` is the rule that keeps A and B from a module.)"""
    paths = accumulate(tensor.split(".")[:-1], "{}.{}".format)
    return any(path.endswith(name) for path in paths for name in names)


def rank_of(config: LoRAConfig, path: str) -> int:
    return _by_pattern(config.rank_pattern, path, config.r)


def alpha_of(config: LoRAConfig, path: str) -> float:
    return _by_pattern(config.alpha_pattern, path, config.lora_alpha)


def _is_excluded(config: LoRAConfig, path: str) -> bool:
    exclude = config.exclude_modules
    match = _match(exclude, path, whole=True) if isinstance(exclude, str) else _ends_in(path, exclude or ())
    return bool(match) or is_saved(config, path)


def _ends_in(path: str, names: tuple[str, ...]) -> bool:
    return any(path == name or path.endswith(f".{name}") for name in names)


def _in_layers(config: LoRAConfig, path: str) -> bool:
    wanted = config.layers_to_transform
    if wanted is None or wanted == ():
        return True
    patterns = (config.layers_pattern,) if isinstance(config.layers_pattern, str) else config.layers_pattern
    expressions = [rf"(?:^|.*?\.){p}\.(\d+)\." for p in patterns or ()] or [r".*?\.[^.]*\.(\d+)\."]
    match = next((m for e in expressions if (m := _match(e, path))), None)
    if match is None:
        return False
    if match.lastindex is None or not re.fullmatch("[0-9]+", index := str(match[1]), re.ASCII):
        raise ConfigError(
            f"layers_pattern is {quote_value(config.layers_pattern)}, whose first group is no number in {path}"
        )
    return int(index) in (wanted if isinstance(wanted, tuple) else (wanted,))


def _by_pattern(pattern: Mapping[str, Value], path: str, default: Value) -> Value:
    """The first key that matches the end of the path decides."""
    return next((value for key, value in pattern.items() if _match(rf"(.*\.)?({key})$", path)), default)


def _match(expression: str, path: str, whole: bool = False) -> re.Match[str] | None:
    """A match at the start of the path, or of the whole path. Raises ConfigError."""
    try:
        compiled = _compile(expression)
        return compiled.fullmatch(path) if whole else compiled.match(path)
    except (re.error, RecursionError, OverflowError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"{quote_value(expression)} is no regular expression: {quote_name(reason)}") from None


@lru_cache(maxsize=256)
def _compile(expression: str) -> re.Pattern[str]:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # "[[a]" may be read otherwise by the Python of a later year: PEFT's is the same
        return re.compile(expression)


def _some(paths: list[str]) -> str:
    """The last names of the paths, for an error message that helps to find the right one."""
    names = sorted({path.rsplit(".", 1)[-1] for path in paths})
    return f"there are {', '.join(names[:20])}" if names else "there are none"
