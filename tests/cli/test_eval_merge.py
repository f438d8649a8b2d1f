"""npl-lora eval and merge on tiny models: the figures are the model's, merged, it is the model with its adapter."""

import json
import math

import ml_dtypes
import numpy as np
import pytest
from models import tiny
from safetensors.numpy import load_file

from npl_lora.adapters import LoRAConfig, files
from npl_lora.cli import main
from npl_lora.models import load, load_classifier

CONFIG = LoRAConfig(r=2, lora_alpha=3, target_modules="all-linear", init_lora_weights=False)


@pytest.fixture
def folder(tmp_path):
    return tiny.with_tokenizer(tiny.folder(tmp_path / "model", dtype="float32"))


@pytest.fixture
def adapter(folder, tmp_path):
    files.save(load(folder).attach(CONFIG, rng=0), tmp_path / "adapter")
    return tmp_path / "adapter"


def test_eval_says_the_loss_of_all_labels(folder, adapter, tmp_path, capsys):
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "1 2", "completion": "3 4 5"}\n{"prompt": "5", "completion": "7"}')
    figures = tmp_path / "figures.json"
    words = ["eval", str(folder), str(path), "--length", "9", "--batch", "1", "--json", str(figures)]
    assert main([*words, "--adapter", str(adapter)]) == 0
    found, model = json.loads(figures.read_text()), load(folder)
    tokens = np.array([[1, 2, 3, 4, 5], [5, 7, 0, 0, 0]])
    labels = np.array([[-100, -100, 3, 4, 5], [-100, 7, -100, -100, -100]])
    loss, _ = model.loss(tokens, labels, model.load_adapter(adapter), key_mask=labels * 0 + tokens > 0)
    assert math.isclose(found["loss"], float(loss), rel_tol=1e-6)
    assert math.isclose(found["perplexity"], math.exp(found["loss"]), rel_tol=1e-12)
    assert (found["labels"], found["rows"]) == (4, 2)
    assert f"loss {found['loss']:.4f}, perplexity {found['perplexity']:.2f}, over 4 labels" in capsys.readouterr().out
    assert main(words) == 0
    assert json.loads(figures.read_text())["loss"] != found["loss"]


def test_eval_of_a_classifier_is_its_accuracy(tmp_path, capsys):
    folder = tiny.with_tokenizer(tiny.folder(tmp_path / "bert", "bert", dtype="float32"))
    path = tmp_path / "data.csv"
    path.write_text("\n".join(["text,label", *(f"{i} {9 - i} 3,{'ab'[i % 2]}" for i in range(10))]))
    out, words = tmp_path / "out", ["--length", "8"]
    assert main(["train", str(folder), str(path), "--out", str(out), "--steps", "2", *words]) == 0
    assert main(["eval", str(folder), str(path), "--adapter", str(out), "--json", str(out / "e.json"), *words]) == 0
    found, model = json.loads((out / "e.json").read_text()), load_classifier(folder, ("a", "b"))
    tokens = np.array([[i, 9 - i, 3] for i in range(10)])
    scores, _ = model.scores(tokens, model.load_adapter(out))
    assert found["accuracy"] == np.mean(np.argmax(scores, axis=1) == np.arange(10) % 2)
    assert f"accuracy {found['accuracy']:.4f}, over 10 labels" in capsys.readouterr().out
    assert main(["eval", str(folder), str(path), *words]) == 2
    assert "--adapter is required for a table (.csv, .tsv): it holds the class names" in capsys.readouterr().err
    (out / "classes.json").write_text("{}")
    assert main(["eval", str(folder), str(path), "--adapter", str(out), *words]) == 2
    assert "classes.json lacks a list of class names or the pooling" in capsys.readouterr().err


def test_merged_it_is_the_model_with_its_adapter(folder, adapter, tmp_path):
    assert main(["merge", str(folder), "--adapter", str(adapter), "--out", str(tmp_path / "merged")]) == 0
    model, tokens = load(folder, np.float64), tiny.tokens()[0]
    ours, _ = load(tmp_path / "merged", np.float64).logits(tokens)
    with_adapter, _ = model.logits(tokens, model.load_adapter(adapter))
    np.testing.assert_allclose(ours, with_adapter, rtol=0, atol=1e-5 * np.abs(with_adapter).max())  # stored in float32
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in (tmp_path / "merged").iterdir()} == names
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_dtype_is_the_models_own_or_what_is_asked_for(folder, adapter, tmp_path, dtype):
    kind = np.dtype(getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype)
    words = ["merge", str(folder), "--adapter", str(adapter), "--out"]
    assert main([*words, str(tmp_path / "asked"), "--dtype", dtype]) == 0
    assert {array.dtype for array in load_file(tmp_path / "asked" / "model.safetensors").values()} == {kind}
    assert json.loads((tmp_path / "asked" / "config.json").read_text())["dtype"] == dtype
    words[1] = str(tmp_path / "asked")
    assert main([*words, str(tmp_path / "own")]) == 0
    assert {array.dtype for array in load_file(tmp_path / "own" / "model.safetensors").values()} == {kind}


def test_what_merge_refuses(folder, adapter, tmp_path, capsys):
    words = ["merge", str(folder), "--adapter", str(adapter), "--out"]
    assert main([*words, str(folder)]) == 2
    assert "is there already, and is not written over" in capsys.readouterr().err
    tiny.folder(folder, dtype="float32", change=lambda arrays: arrays["model.norm.weight"].fill(1e6))
    assert main([*words, str(tmp_path / "out"), "--dtype", "float16"]) == 2
    assert "model.norm.weight is too large for float16 at [0]: 1e+06 (6 of 6 numbers)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))
    (adapter / "classes.json").write_text('["a", "b"]')
    assert main([*words, str(tmp_path / "out")]) == 2
    assert "is the adapter of a classifier: only language models are merged" in capsys.readouterr().err
