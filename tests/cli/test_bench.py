"""npl-lora bench on tiny models: it runs, its figures are of the step that it says, and nothing here is timed."""

import json
import os
import sys

import numpy as np
import pytest
from models import tiny

from npl_lora.cli import main
from npl_lora.models import load
from npl_lora.training.bench import BenchError, Settings, memory
from npl_lora.training.bench.child import Child

WORDS = ["--batch", "3", "--length", "8", "--rank", "2", "--steps", "2"]
COMPARED = {  # with heads that transformers takes, and a dropout that neither side may have
    "llama": dict(num_attention_heads=2, num_key_value_heads=1, head_dim=8),
    "qwen2": dict(attention_dropout=0.3),
    "gpt2": dict(num_attention_heads=2, resid_pdrop=0.3, attn_pdrop=0.3),
}


@pytest.fixture
def folder(tmp_path):
    return tiny.folder(tmp_path / "model", dtype="float32")


def figures(path, *words):
    assert main(["bench", str(path), *WORDS, *words, "--json", str(path / "figures.json")]) == 0
    return json.loads((path / "figures.json").read_text())


def loss_of(folder):
    """Of the first batch of tokens, by the model alone."""
    tokens = Settings(str(folder), batch=3, length=8).tokens(0, tiny.CONFIG["vocab_size"])
    return float(load(folder).loss(tokens, tokens)[0])


def test_the_figures_are_of_what_was_asked_for(folder, capsys):
    found = figures(folder, "--target-modules", "q_proj,down_proj", "--threads", "1")
    side = found["sides"]["npl-lora"]
    np.testing.assert_allclose(side["first_loss"], loss_of(folder), rtol=1e-6)
    model = load(folder)
    paths = [path for path in model.modules if path.endswith(("q_proj", "down_proj"))]
    assert side["trained"] == sum(2 * sum(model.modules[path].shape) for path in paths)
    assert len(side["seconds"]["each"]) == 2
    assert 0 < side["seconds"]["min"] <= side["seconds"]["median"] <= side["seconds"]["max"]
    np.testing.assert_allclose(side["tokens_per_second"] * side["seconds"]["median"], 24, rtol=1e-12)
    assert found["ratio"] is None
    assert found["settings"]["target_modules"] == ["q_proj", "down_proj"]
    assert found["machine"]["environment"]["OPENBLAS_NUM_THREADS"] == "1"
    out, progress = capsys.readouterr()
    first, last = side["first_seconds"], side["seconds"]["each"][-1]
    assert f"npl-lora: the step to warm up took {first:.3g} s\n" in progress
    assert progress.endswith(f"npl-lora: step 2 of 2 took {last:.3g} s\n")
    assert f"| trained parameters | {side['trained']:,} |" in out
    assert "3 x 8 tokens, rank 2 on q_proj, down_proj, AdamW, float32, 2 steps after one to warm up." in out


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of another process's memory")
def test_memory_is_that_of_the_child(folder):
    held = bytearray(os.urandom(1) * 300_000_000)  # this process's own, which must not count
    side = figures(folder)["sides"]["npl-lora"]["memory"]
    assert 10e6 < side["loaded"] <= side["peak"] < 300e6 < memory.used()["resident"]
    assert 0 < side["peak_anonymous"] < side["peak"]
    assert len(held) == 300_000_000


@pytest.mark.slow
def test_coded_and_recomputed_it_is_the_same_step(tmp_path):
    import ml_dtypes

    folder = tiny.folder(tmp_path / "model", dtype=ml_dtypes.bfloat16)
    for words in ((), ("--coded",), ("--recompute",)):
        found = figures(folder, *words)
        np.testing.assert_allclose(found["sides"]["npl-lora"]["first_loss"], loss_of(folder), rtol=1e-6)
        assert [found["settings"][name] for name in ("coded", "recompute")] == [f"--{n}" in words for n in
                                                                               ("coded", "recompute")]  # fmt: skip


def test_recompute_reaches_the_model(folder, monkeypatch):
    from npl_lora.models import Model
    from npl_lora.training.bench.own_side import Side

    asked, loss = [], Model.loss
    monkeypatch.setattr(Model, "loss", lambda *a, **how: asked.append(how.get("recompute")) or loss(*a, **how))
    losses = [Side(Settings(str(folder), length=8, recompute=recompute)).step(0) for recompute in (False, True)]
    assert asked == [None, True]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--batch", "0"], "batch is 0, expected at least 1"),
        (["--length", "1"], "length is 1, expected at least 2"),
        (["--rank", "0"], "rank is 0, expected at least 1"),
        (["--steps", "0"], "steps is 0, expected at least 1"),
        (["--threads", "0"], "threads is 0, expected at least 1"),
        (["--length", "17"], "tokens have 17 positions, expected at most 16"),
        (["--target-modules", "nothing"], "nothing"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(folder, words, said, capsys):
    assert main(["bench", str(folder), "--length", "8", "--steps", "1", *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("npl-lora: ")
    assert said in error


def test_no_model_is_one_sentence(tmp_path, capsys):
    assert main(["bench", str(tmp_path)]) == 2
    assert f"npl-lora: {tmp_path / 'config.json'}: No such file" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["torch", "peft", "transformers"])
def test_without_a_package_of_the_other_side_it_says_how_to_get_it(folder, package, monkeypatch, capsys):
    for name in ("torch", "peft", "transformers"):
        monkeypatch.setitem(sys.modules, name, None if name == package else sys)  # installed, or not
    assert main(["bench", str(folder), "--against", "torch"]) == 2
    said = f"npl-lora: a comparison with torch needs {package}: pip install 'npl-lora[torch]'\n"
    assert capsys.readouterr().err == said


def test_a_child_that_ends_is_one_sentence(folder):
    with Child("npl-lora", os.environ) as child:
        child.load(Settings(str(folder), length=8))
        child._process.kill()
        with pytest.raises(BenchError, match=r"^the npl-lora side ended by signal 9, perhaps out of memory$"):
            child.step()


def test_what_a_child_said_last_is_told(folder):
    with (
        Child("nobody", os.environ) as child,
        pytest.raises(BenchError, match=r"^the nobody side ended with status 1: KeyError: 'nobody'$"),
    ):
        child.load(Settings(str(folder)))


@pytest.mark.torch
@pytest.mark.parametrize("words", [(), ("--recompute", "--target-modules", "all-linear")], ids=["usual", "recompute"])
@pytest.mark.parametrize("kind", COMPARED)
def test_torch_takes_the_same_step(tmp_path, kind, words, capsys):
    folder = tiny.folder(tmp_path / kind, kind, dtype="float32", **COMPARED[kind])
    found = figures(folder, *words, "--against", "torch")
    ours, theirs = (found["sides"][side] for side in ("npl-lora", "torch"))
    assert ours["trained"] == theirs["trained"]
    np.testing.assert_allclose(theirs["first_loss"], ours["first_loss"], rtol=1e-5)
    pairs = zip(ours["seconds"]["each"], theirs["seconds"]["each"], strict=True)
    assert found["ratio"]["each"] == [theirs / ours for ours, theirs in pairs]
    assert {"npl-lora", "NumPy"} <= set(ours["versions"])
    assert set(theirs["versions"]) == {"torch", "peft", "transformers"}
    assert "Seconds of PyTorch + PEFT over those of npl-lora, pair by pair: " in capsys.readouterr().out
