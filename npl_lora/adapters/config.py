"""The configuration of a LoRA adapter, with PEFT's field names and defaults.

Fields that do not affect the mathematics (who made the file, for which base model) are kept unchanged. A file that is
read and written again still has them. A field that would change the mathematics in a way that is not supported here,
such as use_qalora, is refused. Without it the adapter would compute something else.

Source: PEFT 0.21.2, LoraConfig.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..support.quoting import quote_value

INITS = (True, False, "gaussian")  # of a new adapter
_OTHER_INITS = (None, "orthogonal", "eva", "mica")  # PEFT's others that leave the base model as it is
_CHANGES_BASE = ("pissa", "olora", "corda", "lora_ga")
BIASES = ("none", "all", "lora_only")
SWITCHES = ("use_rslora", "fan_in_fan_out", "use_dora", "lora_bias")

_ALWAYS = {"peft_type": "LORA", "inference_mode": True}  # what PEFT writes into every file

# PEFT's fields that change the mathematics and are not supported: they must be off.
_NOT_HERE = (
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "target_parameters",
    "layer_replication",
    "kasa_config",
    "velora_config",
    "monteclora_config",
    "arrow_config",
)

# PEFT's other fields. They have no effect, or only on how an adapter was initialised.
_CARRIED = (
    "task_type",
    "peft_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "megatron_config",
    "megatron_core",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "qalora_group_size",
    "runtime_config",
    "ensure_weight_tying",
    "trainable_token_indices",
)


class ConfigError(ValueError):
    """A configuration that is invalid or not supported. The message is one sentence that names the field."""


@dataclass(frozen=True)
class LoRAConfig:
    """LoRA with rank r and scale lora_alpha / r (lora_alpha / sqrt(r) with use_rslora) on the target modules.

    r: rank, at least 1. lora_alpha: a number. lora_dropout: 0 <= p < 1, on the low-rank path's input.
    target_modules: names that a module's path ends in, or a regular expression for the whole path, or "all-linear"
    (all but the output layer). None: the model's defaults. exclude_modules: likewise; it overrides target_modules.
    layers_to_transform: indices of the layers to adapt. layers_pattern: the name before the index in a path.
    rank_pattern and alpha_pattern: {regular expression: value} for modules whose path ends in a match; the first
    match decides. bias: which biases are trained, "none", "all" or "lora_only".
    modules_to_save: modules trained in full with the adapter. fan_in_fan_out: base weights are stored (in, out).
    init_lora_weights: True (A as He et al. with a = sqrt(5), B = 0), "gaussian" (A ~ N(0, 1/r^2), B = 0) or False (B
    like A, so the adapter changes the model from the start). A file may have any other name that PEFT knows: an adapter
    that is loaded has its numbers already. use_dora: the rows of W + s B A get lengths that are trained (DoRA).
    lora_bias: B has a bias. other: all other fields of a file.
    Raises ConfigError for a value that does not fit.
    """

    r: int = 8
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    use_rslora: bool = False
    target_modules: str | tuple[str, ...] | None = None
    exclude_modules: str | tuple[str, ...] | None = None
    layers_to_transform: int | tuple[int, ...] | None = None
    layers_pattern: str | tuple[str, ...] | None = None
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    bias: str = "none"
    modules_to_save: tuple[str, ...] | None = None
    fan_in_fan_out: bool = False
    init_lora_weights: bool | str | None = True
    use_dora: bool = False
    lora_bias: bool = False
    other: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"):
            value = getattr(self, name)
            if isinstance(value, list | set | frozenset | tuple):
                object.__setattr__(self, name, tuple(sorted(value) if isinstance(value, set | frozenset) else value))
        _check(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "LoRAConfig":
        """Read the object in an adapter_config.json. Raises ConfigError."""
        if found.get("peft_type", "LORA") != "LORA":
            raise ConfigError(f"peft_type is {quote_value(found['peft_type'])}, expected 'LORA'")
        known = {f.name for f in fields(cls)} - {"other"}
        other = {name: value for name, value in found.items() if name not in known | _ALWAYS.keys()}
        own = {name: value for name, value in found.items() if name in known}
        own |= {name: False for name in SWITCHES if name in own and own[name] is None}  # null is off, as in PEFT
        return cls(**own, other=other)

    def as_json(self) -> dict[str, Any]:
        """The object of an adapter_config.json, which PEFT reads."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "other"}
        lists = {name: list(value) if isinstance(value, tuple) else value for name, value in own.items()}
        plain = {name: dict(value) if isinstance(value, Mapping) else value for name, value in lists.items()}
        return {**self.other, **plain, **_ALWAYS}


def check_names(found: Mapping[str, Any]) -> None:
    """Check fields that somebody may have written by hand. A misspelt one would be kept and do nothing.

    A field that is off does no harm: a later PEFT may have it. Raises ConfigError for a field that PEFT does not have.
    """
    own = [f.name for f in fields(LoRAConfig) if f.name != "other"]
    for name in sorted(found.keys() - {*own, *_NOT_HERE, *_CARRIED}):
        if found[name]:
            raise ConfigError(
                f"{quote_value(name)} is no field of PEFT's LoraConfig; those used here are {', '.join(own)}"
            )


def _check(config: LoRAConfig) -> None:
    _natural("r", config.r)
    _real("lora_alpha", config.lora_alpha)
    if not (_is_number(config.lora_dropout) and 0 <= config.lora_dropout < 1):
        raise ConfigError(f"lora_dropout is {quote_value(config.lora_dropout)}, expected 0 <= lora_dropout < 1")
    for name in SWITCHES:
        if type(getattr(config, name)) is not bool:
            raise ConfigError(f"{name} is {quote_value(getattr(config, name))}, expected true or false")
    for name in ("target_modules", "exclude_modules", "layers_pattern", "modules_to_save"):
        _texts(name, getattr(config, name))
    _indices(config.layers_to_transform)
    for name, check in (("rank_pattern", _natural), ("alpha_pattern", _real)):
        pattern = getattr(config, name)
        if not isinstance(pattern, Mapping):
            raise ConfigError(f"{name} is a {type(pattern).__name__}, expected values by regular expressions")
        for key, value in pattern.items():
            check(f"{name}[{quote_value(key)}]", value)
    if config.bias not in BIASES:
        raise ConfigError(f"bias is {quote_value(config.bias)}, expected one of {', '.join(BIASES)}")
    _init(config.init_lora_weights)
    if config.use_dora and config.lora_bias:
        raise ConfigError("use_dora and lora_bias are both true, which no library has: one of them must be false")
    for name in _NOT_HERE:
        if config.other.get(name):
            raise ConfigError(f"{name} is {quote_value(config.other[name])}: not supported here")


def changes_base(config: LoRAConfig) -> str:
    """Why an adapter with this configuration needs another base model than its own, and what to do; "" if it does not.

    Such an init takes s B A of the start out of the base model's weights. PEFT sets init_lora_weights to true when it
    converts the adapter to an ordinary one, so the name is left only in one that was not converted.
    """
    init = str(config.init_lora_weights).lower()
    if init.startswith(_CHANGES_BASE):
        return (
            f"init_lora_weights is {quote_value(config.init_lora_weights)}, which also changed the base model's "
            "weights, so the adapter does not fit the model as it is; save it again in PEFT as an ordinary LoRA, with "
            "save_pretrained(FOLDER, path_initial_model_for_weight_conversion=INITIAL), where INITIAL is the folder of "
            "the adapter as it was before training"
        )
    if init == "loftq":
        return (
            "init_lora_weights is 'loftq', which also changed the base model's weights; give the base model that was "
            "saved with the adapter as the model, and set init_lora_weights to true in this file"
        )
    return ""


def _init(value: Any) -> None:
    name = value.lower() if isinstance(value, str) else value
    plain = (name is None or isinstance(name, bool | str)) and name in (*INITS, *_OTHER_INITS, "loftq")
    if not plain and not (isinstance(name, str) and name.startswith(_CHANGES_BASE)):
        raise ConfigError(
            f"init_lora_weights is {quote_value(value)}, which is none of PEFT's; if the adapter's A and B are an "
            "ordinary LoRA's, set it to true"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


def _natural(name: str, value: Any) -> None:
    if type(value) is not int or not 1 <= value < 1 << 31:
        raise ConfigError(f"{name} is {quote_value(value)}, expected an integer of at least 1")


def _real(name: str, value: Any) -> None:
    if not _is_number(value):
        raise ConfigError(f"{name} is {quote_value(value)}, expected a number")


def _texts(name: str, value: Any) -> None:
    if value is None or (isinstance(value, str) and name != "modules_to_save"):
        return
    if not isinstance(value, tuple) or not all(isinstance(text, str) for text in value):
        raise ConfigError(f"{name} is {quote_value(value)}, expected a list of names")


def _indices(value: Any) -> None:
    values = value if isinstance(value, tuple) else () if value is None else (value,)
    if not all(type(index) is int and index >= 0 for index in values):
        raise ConfigError(f"layers_to_transform is {quote_value(value)}, expected indices of layers")
