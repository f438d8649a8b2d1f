"""npl-lora train --adapter: training goes on from an adapter, with its configuration and its numbers."""

import csv
import json
import sys

import numpy as np
import pytest
from models import tiny

from npl_lora.adapters import LoRAConfig, files
from npl_lora.cli import main
from npl_lora.models import load

CONFIG = LoRAConfig(
    r=3, lora_alpha=5, use_rslora=True, target_modules=["q_proj", "down_proj"], rank_pattern={"down_proj": 2},
    init_lora_weights=False, lora_dropout=0.25,
)  # fmt: skip
HOW = ["--length", "8", "--batch", "3", "--every", "2", "--lr", "0.05"]


@pytest.fixture
def model(tmp_path):
    return tiny.with_tokenizer(tiny.folder(tmp_path / "model", dtype="float32"))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("1 2 3 4 5 6 7 8 9 x y z " * 12)
    return path


@pytest.fixture
def start(model, tmp_path):
    files.save(load(model).attach(CONFIG, rng=7), tmp_path / "start")
    return tmp_path / "start"


def train(model, data, out, *more):
    return main(["train", str(model), str(data), "--out", str(out), *HOW, *more])


def held_out(out):
    with (out / "metrics.csv").open() as file:
        return [float(row["held_out_loss"]) for row in csv.DictReader(file) if row["held_out_loss"]]


@pytest.mark.slow
def test_it_begins_where_the_adapter_ended_and_keeps_its_configuration(model, text, tmp_path):
    whole = ["--steps", "2", "--schedule", "constant"]
    assert train(model, text, tmp_path / "first", *whole, "--rank", "3") == 0
    assert train(model, text, tmp_path / "second", *whole, "--adapter", str(tmp_path / "first")) == 0
    assert held_out(tmp_path / "second")[0] == held_out(tmp_path / "first")[-1]
    assert held_out(tmp_path / "second")[-1] < held_out(tmp_path / "second")[0]
    first, second = (json.loads((tmp_path / name / files.CONFIG).read_text()) for name in ("first", "second"))
    assert first == second


def test_everything_that_the_configuration_says_stays(model, text, start, tmp_path):
    assert train(model, text, tmp_path / "out", "--steps", "3", "--adapter", str(start)) == 0
    before, after = (load(model).load_adapter(folder) for folder in (start, tmp_path / "out"))
    assert after.config.as_json() == {**before.config.as_json(), "base_model_name_or_path": str(model)}
    assert after.places == before.places
    for name, array in before.parameters.items():
        assert np.any(array != after.parameters[name]), name
        # AdamW's first steps are at most some lr each
        assert np.abs(array - after.parameters[name]).max() <= 3 * 0.05 * 1.01


def test_dropout_alone_may_change(model, text, start, tmp_path, capsys):
    assert train(model, text, tmp_path / "out", "--steps", "1", "--adapter", str(start), "--dropout", "0.5") == 0
    assert files.load_config(tmp_path / "out").lora_dropout == 0.5
    capsys.readouterr()
    options = {"--rank": "3", "--alpha": "2", "--rslora": None, "--target-modules": "q_proj", "--lora": "x.json"}
    for option, value in options.items():
        words = [option] if value is None else [option, value]
        assert train(model, text, tmp_path / "other", "--adapter", str(start), *words) == 2
        assert f"{option} and --adapter exclude each other: {start} decides it" in capsys.readouterr().err
    assert train(model, text, tmp_path / "other", "--adapter", str(start), "--adapter", str(start)) == 2
    assert "`npl-lora combine` makes one adapter of several" in capsys.readouterr().err
    assert train(model, text, tmp_path / "other", "--adapter", str(tmp_path / "nowhere")) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_trained_tokens_stay_trained_tokens_with_another_dropout(model, text, tmp_path):
    config = LoRAConfig(r=2, target_modules=["q_proj"], other={"trainable_token_indices": [4, 2]})
    files.save(load(model).attach(config, rng=7), tmp_path / "start")
    more = ["--steps", "2", "--adapter", str(tmp_path / "start"), "--dropout", "0.5"]
    assert train(model, text, tmp_path / "out", *more) == 0
    start, trained = (load(model).load_adapter(tmp_path / name) for name in ("start", "out"))
    assert trained.rows == start.rows
    name = "model.embed_tokens.token_adapter.trainable_tokens_delta"
    assert np.any(start.parameters[name] != trained.parameters[name])


def test_what_cannot_be_trained_is_refused_before_the_first_step(model, text, start, tmp_path, capsys):
    about = json.loads((start / files.CONFIG).read_text())
    (start / files.CONFIG).write_text(json.dumps({**about, "ensure_weight_tying": True}))
    assert train(model, text, tmp_path / "out", "--adapter", str(start)) == 2
    assert "ensure_weight_tying is true: not supported here in training" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_adapter_is_not_written_over(model, text, start, tmp_path, capsys):
    assert train(model, text, start, "--adapter", str(start)) == 2
    assert "already exists, without a checkpoint: choose another --out" in capsys.readouterr().err


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_the_same_bits(model, text, start, tmp_path, monkeypatch):
    more = ["--steps", "4", "--adapter", str(start)]
    assert train(model, text, tmp_path / "whole", *more) == 0
    from npl_lora.training.run import Run

    def stop_after_two(run, go=Run.go):
        for event in go(run):
            yield event
            if event.step == 2:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "go", stop_after_two)
        assert train(model, text, tmp_path / "parts", *more) == 130
    assert train(model, text, tmp_path / "parts", *more, "--resume") == 0
    whole, parts = ((tmp_path / name / files.TENSORS).read_bytes() for name in ("whole", "parts"))
    assert whole == parts


def test_a_classifier_goes_on_with_the_order_of_its_classes(tmp_path):
    model = tiny.with_tokenizer(tiny.folder(tmp_path / "bert", "bert", dtype="float32"))
    rows = [f"{i} {9 - i} 3,{'ab'[i % 2]}" for i in range(10)]
    for name, order in (("one", rows), ("two", rows[1:])):  # the first label is a in one, b in two
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *order]))
    first, second = tmp_path / "first", tmp_path / "second"
    assert train(model, tmp_path / "one.csv", first, "--steps", "2") == 0
    assert train(model, tmp_path / "two.csv", second, "--steps", "2", "--adapter", str(first)) == 0
    assert (first / "classes.json").read_bytes() == (second / "classes.json").read_bytes()


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_a_step_from_pefts_adapter_is_that_of_torch(tmp_path, monkeypatch):
    """SGD on the whole text as one row: the same step in torch, with PEFT's own loading and saving."""
    monkeypatch.setitem(sys.modules, "torchao", None)  # see models/conftest.py
    import peft
    import torch
    import transformers

    monkeypatch.setattr(tiny, "CONFIG", {**tiny.CONFIG, "hidden_size": 8})  # a multiple of the heads
    folder = tiny.with_tokenizer(tiny.folder(tmp_path / "model", dtype="float32"))
    base = transformers.AutoModelForCausalLM.from_pretrained(folder)
    about = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    theirs = peft.get_peft_model(base, about)
    theirs.save_pretrained(tmp_path / "start")
    text = tmp_path / "text.txt"
    text.write_text("1 2 3 4 5 6 7 x")
    words = ["--adapter", str(tmp_path / "start"), "--steps", "1", "--batch", "1", "--length", "8", "--held-out", "0"]
    words += ["--optimizer", "sgd", "--lr", "0.1", "--schedule", "constant", "--clip", "1e9"]
    assert main(["train", str(folder), str(text), "--out", str(tmp_path / "out"), *words]) == 0
    tokens = torch.tensor([[tiny.WORDS.index(word) for word in "1234567x"]])
    theirs.train()
    theirs(tokens, labels=tokens).loss.backward()
    ours = load(folder).load_adapter(tmp_path / "out").parameters
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.requires_grad:
                own = ours[name.removeprefix("base_model.model.").replace(".default", "")]
                step = (0.1 * parameter.grad).numpy()
                expected = parameter.numpy() - step
                # float32: u = 6e-8 of the parameter, and some hundred u of the gradient
                tolerance = 2**-23 * np.abs(expected) + 500 * 2**-24 * np.abs(step).max()
                assert np.all(np.abs(own - expected) <= tolerance), name
                assert np.abs(step).max() > 1e-4
