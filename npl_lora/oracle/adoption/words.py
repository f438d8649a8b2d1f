"""The names that people give to the parts of a LoRA layer. A new synonym is one word in a table here.

Names are compared in lower case and without leading underscores. Source: two studies of 270 public layers.
"""

import re
from collections.abc import Sequence

_ROLES = {
    "in": "in_features in_feature in_dim in_dims input_dim input_dims d_in in_f in_feat inp_dim fan_in k_in dim_in"
    " features_in indim dim_input input_size in_size n_in infeatures in_channels",
    "out": "out_features out_feature out_dim out_dims output_dim output_dims d_out out_f out_feat fan_out dim_out"
    " features_out outdim dim_output output_size out_size n_out outfeatures units features out_channels",
    "size": "d_embed embed_dim dim dims d d_model d_latent hidden_size hidden_dim n_embd",
    "rank": "r rank lora_rank lora_r lora_dim rank_lora d_lora low_rank low_rank_dim bottleneck lora_attn_dim lowrank",
    "alpha": "alpha lora_alpha network_alpha a",
    "scale": "scale scaling lora_scaling lora_scale scaling_factor lora_scaler multiplier",
    "dropout": "dropout lora_dropout dropout_p p dropout_rate lora_dropout_p dropout_prob drop drop_rate lora_drop_out"
    " dropout_ratio lora_droppout lora_dropout_prob rate",
    "bias": "bias use_bias bais has_bias",
    "rslora": "use_rslora rslora rs_lora rank_stabilized use_rs_lora",
    "transposed": "fan_in_fan_out",
    "dora": "use_dora dora",
    "base": "linear base base_layer original_layer original orig_linear original_linear original_linear_layer"
    " orig_layer orig_module original_module base_module base_linear linear_layer lin_layer lin layer module"
    " org_module existing_linear pretrained pretrained_layer pretrained_linear proj qkv fc linear_module nn_linear"
    " wrapped target_module child source orig old embedding embedding_layer original_embedding conv conv_layer"
    " original_conv",
    "weight": "weight w0 w original_weight base_weight wt pretrained_weight weight_matrix frozen_weight",
    "device": "device",
    "dtype": "dtype param_dtype",
    "name": "lora_name adapter_name name",
    "config": "config args cfg lora_config lora_cfg layer_config peft_config conf hparams",
    "A": "w_a linear_a lora_a a_layer lora_down down down_proj a_linear a_proj",
    "B": "w_b linear_b lora_b b_layer lora_up up up_proj b_linear b_proj",
    "path": "lora lora_layer lora_module lora_path lora_adapter adapter adapter_layer",
    "ids": "num_embeddings num_embedding vocab_size n_vocab vocab vocabulary_size num_tokens n_tokens num_embed"
    " n_embeddings",
    "width": "embedding_dim embedding_dims embedding_size emb_dim emb_size embed_size embed_width d_emb",
    "kernel": "kernel_size",
    "stride": "stride",
    "padding": "padding",
    "dilation": "dilation",
    "padding_idx": "padding_idx",
    "key": "key rng rngs",
    "trained": "trainable",
}
_ROLE = {name: role for role, names in _ROLES.items() for name in names.split()}

GROUPS = ("enable_lora", "enabled_lora", "lora_enabled")  # a list that says which of q, k and v have factors

# Of functions of named arrays. Upper and lower case tell b from B.
_ARRAYS = {
    name: role
    for role, names in {
        "x": "x input inputs hidden_states hidden",
        "W": "W w weight w0 base_weight kernel",
        "A": "A a lora_a w_a down",
        "B": "B lora_b w_b up",
        "b": "b bias",
        "mask": "mask dropout_mask drop_mask",
        "alpha": "alpha lora_alpha",
        "scale": "scale scaling s lora_scale",
        "rank": "r rank lora_rank lora_r",
    }.items()
    for name in names.split()
}

_WEIGHTS = "original_weights original_weight weights weight wts w orig_weight"
_MAGNITUDES = "m magnitude lora_magnitude lora_magnitude_vector dora_m m_dora dora_magnitude g mag"
WEIGHTS = frozenset(_WEIGHTS.split())  # what a parametrization is handed
MAGNITUDES = frozenset(_MAGNITUDES.split())

TRAINING = frozenset(("train", "training", "is_training"))  # what a call is told besides its input
EVALUATION = frozenset(("deterministic", "inference", "eval"))

_SET_UP = "init_lora set_lora reset_lora create_lora add_lora enable_lora add_adapter update_layer add_task"
SET_UP = tuple(_SET_UP.split())  # called with a rank
_BASE_OUTPUT = "original_output original_out orig_output orig_out base_output base_out base_y frozen_output frozen_out"
BASE_OUTPUT = frozenset(f"{_BASE_OUTPUT} pretrained_output linear_output linear_out residual".split())  # beside x
SET_WEIGHT = ("set_weight", "set_weights", "set_base_weight", "set_base_weights", "set_linear", "set_base_linear")
_MERGE = "merge merge_weights merge_lora fuse merge_and_unload to_linear merge_lora_weights merged_linear"
MERGE = tuple(_MERGE.split())
UNMERGE = ("unmerge", "unmerge_weights", "unmerge_lora", "unfuse", "unmerge_lora_weights")

OFF = {  # flags of a layer that does not add its low-rank path at present
    "merged": True,
    "is_merged": True,
    "disabled": True,
    "disable_adapters": True,
    "enabled": False,
    "lora_enabled": False,
}
ADD_ADAPTER = ("add_adapter", "add_lora", "add_lora_adapter", "new_adapter")  # called with a name
SWITCH = ("set_adapter", "set_active_adapter", "switch_adapter", "activate_adapter", "use_adapter", "activate")


# Where the whole name is in no table, its words tell: a word of each group.
_BY_WORDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("base", ("old orig original base existing raw pretrained frozen wrapped", "layer linear module proj conv fc")),
    ("base", ("conv linear embedding embed", "module layer")),
    ("in", ("in input", "features feature dim dims size params channels hidden")),
    ("out", ("out output", "features feature dim dims size params channels hidden")),
    ("dropout", ("dropout",)),
    ("rank", ("rank",)),
    ("alpha", ("alpha",)),
    ("name", ("name",)),
)
_NOT_BY_WORDS = frozenset(["init", "type", "mode", "pattern", "max", "min", "target"])  # init_alpha, dropout_type
_LAST_WORDS = ("rank", "alpha")  # weight_rank says what it is even where it has a default


def role_of(name: str, by_words: bool = True) -> str | None:
    """The role that a parameter of this name plays, or None. by_words: whether any of its words may tell, not only
    the last."""
    name = plain(name)
    if name in _ROLE:
        return _ROLE[name]
    words = set(name.split("_"))
    if words & _NOT_BY_WORDS:
        return None
    if not by_words:
        last = name.split("_")[-1]
        return last if last in _LAST_WORDS and not name.startswith("use_") else None
    return next((role for role, groups in _BY_WORDS if all(words & set(group.split()) for group in groups)), None)


def factor_of_part(name: str) -> str:
    """Whose factor a parameter is in a fused projection: "A of q" for linear_a_q; else ""."""
    name, _, part = plain(name).rpartition("_")
    role = _ROLE.get(name)
    return f"{role} of {part}" if role in ("A", "B") and part in ("q", "k", "v") else ""


def array_role(name: str, beside: Sequence[str]) -> str | None:
    """The role that a parameter plays in a function of named arrays. b is B where none of the others is."""
    if name == "b" and not any(plain(other) in ("lora_b", "b") for other in beside if other != "b"):
        return "B"
    return _ARRAYS.get(name) or _ARRAYS.get(plain(name))


def plain(name: str) -> str:
    """A name as the tables have it: baseLinear is base_linear."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().lstrip("_")


def is_weight(name: str) -> bool:
    """Whether a forward that takes this first is a parametrization's."""
    return plain(name) in WEIGHTS or "weight" in plain(name).split("_")


def of_factor(path: str, letter: str) -> bool:
    """Whether a parameter's path names factor "a" or "b": lora_A, lora_A.weight, A, w_a."""
    words = path.lower().replace(".", "_").split("_")
    return letter in words or f"lora{letter}" in words or {"a": "down", "b": "up"}[letter] in words
