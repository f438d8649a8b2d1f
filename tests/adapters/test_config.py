"""A configuration as PEFT writes it: what is kept, what is refused, and which modules it means."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npl_lora.adapters import ConfigError, LoRAConfig, Module
from npl_lora.adapters._targets import alpha_of, find_targets, is_targeted, rank_of
from npl_lora.adapters.config import check_names

NAMES = ("q_proj", "k_proj", "down_proj")
MODULES = {f"model.layers.{i}.{n}": Module("linear", (4, 6), ()) for i in range(3) for n in NAMES}
MODULES |= {"model.embed_tokens": Module("embedding", (9, 6), ())}
MODULES |= {"lm_head": Module("linear", (9, 6), (), output=True)}


@given(
    r=st.integers(1, 64),
    alpha=st.floats(-100, 100).filter(bool),
    dropout=st.floats(0, 0.99),
    rslora=st.booleans(),
    targets=st.none() | st.text(max_size=9) | st.lists(st.text(max_size=9), max_size=3),
    layers=st.none() | st.integers(0, 9) | st.lists(st.integers(0, 9), max_size=3),
    other=st.dictionaries(st.sampled_from(["revision", "task_type", "peft_version", "of_tomorrow"]), st.integers()),
)
def test_what_is_written_is_read(r, alpha, dropout, rslora, targets, layers, other):
    config = LoRAConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        use_rslora=rslora,
        target_modules=targets,
        layers_to_transform=layers,
        rank_pattern={"q_proj": r + 1},
        other=other,
    )
    read = LoRAConfig.from_json(json.loads(json.dumps(config.as_json())))
    assert read.as_json() == config.as_json()
    assert {name: read.as_json()[name] for name in other} == other


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (dict(r=0), "r is 0, expected an integer of at least 1"),
        (dict(r=2.0), "r is 2.0"),
        (dict(r=True), "r is True"),
        (dict(lora_alpha=float("nan")), "lora_alpha is nan"),
        (dict(lora_alpha="16"), "lora_alpha is '16'"),
        (dict(lora_dropout=1.0), "lora_dropout is 1.0, expected 0 <= lora_dropout < 1"),
        (dict(use_rslora=1), "use_rslora is 1"),
        (dict(target_modules=[1]), "target_modules is"),
        (dict(layers_to_transform=[-1]), "layers_to_transform is"),
        (dict(rank_pattern={"q": 0}), "rank_pattern\\['q'\\] is 0"),
        (dict(rank_pattern=[]), "rank_pattern is a list"),
        (dict(bias="some"), "bias is 'some', expected one of none, all, lora_only"),
        (dict(init_lora_weights="pizza"), "init_lora_weights is 'pizza', which is none of PEFT's; .* set it to true"),
        (dict(init_lora_weights=1), "init_lora_weights is 1, which is none of PEFT's"),
        (dict(modules_to_save="lm_head"), "modules_to_save is 'lm_head'"),
        (dict(other={"use_qalora": True}), "use_qalora is True: not supported here"),
        (dict(use_dora=1), "use_dora is 1, expected true or false"),
        (dict(use_dora=True, lora_bias=True), "use_dora and lora_bias are both true"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields, sentence):
    with pytest.raises(ConfigError, match=sentence):
        LoRAConfig(**fields)


def test_another_member_s_file_is_refused():
    with pytest.raises(ConfigError, match="peft_type is 'LOHA'"):
        LoRAConfig.from_json({"peft_type": "LOHA"})


def test_a_field_that_peft_does_not_have_is_refused_unless_it_is_off():
    check_names({"r": 4, "task_type": "CAUSAL_LM", "use_dora": False, "of_tomorrow": None, "off": False})
    with pytest.raises(ConfigError, match="'lora_alhpa' is no field of PEFT's LoraConfig; those used here are r, "):
        check_names({"r": 4, "lora_alhpa": 16})


def of(config):
    return find_targets(config, MODULES)


def test_targets():
    every = [path for path in MODULES if "layers" in path]
    assert of(LoRAConfig(target_modules=["q_proj"])) == [p for p in every if p.endswith("q_proj")]
    assert of(LoRAConfig(target_modules="all-linear")) == every
    assert of(LoRAConfig(target_modules=r".*\.1\.\w+")) == [p for p in every if ".1." in p]
    assert of(LoRAConfig(target_modules=["lm_head", "embed_tokens"])) == ["model.embed_tokens", "lm_head"]
    assert of(LoRAConfig(target_modules=["layers.2.k_proj"])) == ["model.layers.2.k_proj"]
    assert of(LoRAConfig(target_modules=NAMES, exclude_modules=["0.q_proj", "k_proj"]))[0] == "model.layers.0.down_proj"
    assert of(LoRAConfig(target_modules=["q_proj"], layers_to_transform=2)) == ["model.layers.2.q_proj"]
    both = LoRAConfig(target_modules=["q_proj"], layers_to_transform=[0, 2], layers_pattern="layers")
    assert of(both) == ["model.layers.0.q_proj", "model.layers.2.q_proj"]
    assert not is_targeted(LoRAConfig(target_modules=["proj"]), "model.layers.0.q_proj")  # not a whole name
    assert not is_targeted(LoRAConfig(target_modules=["lm_head"], modules_to_save=["lm_head"]), "lm_head")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (dict(target_modules=["q_proj", "v_proj"]), "'v_proj', which is the name of no module: there are down_proj"),
        (dict(target_modules="nothing"), "leaves no module"),
        (dict(target_modules=["q_proj"], layers_to_transform=9), "leaves no module"),
        (dict(target_modules="("), "no regular expression"),
        (dict(target_modules=["q_proj"], exclude_modules="["), "no regular expression"),
    ],
)
def test_targets_that_match_nothing(fields, sentence):
    with pytest.raises(ConfigError, match=sentence):
        of(LoRAConfig(**fields))


def test_the_first_pattern_that_matches_the_end_decides():
    config = LoRAConfig(
        r=2, lora_alpha=3, rank_pattern={"1.q_proj": 5, "q_proj": 7}, alpha_pattern={r"layers\.\d.k": 9}
    )
    assert [rank_of(config, f"model.layers.{i}.q_proj") for i in range(2)] == [7, 5]
    assert rank_of(config, "model.layers.0.k_proj") == 2
    assert alpha_of(config, "model.layers.0.k_proj") == 3  # the pattern ends before the path does
