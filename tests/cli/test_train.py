"""npl-lora train on a tiny model: what it writes, that it learns, that a stop loses nothing, and what it refuses."""

import csv
import multiprocessing.pool
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
import tokenizers
from models import tiny
from safetensors.numpy import load_file

from npl_lora.cli import main
from npl_lora.models import load
from npl_lora.training import checkpoint

HOW = ["--steps", "6", "--every", "2", "--length", "8", "--batch", "3", "--micro-batch", "2", "--lr", "0.05"]


@pytest.fixture
def model(tmp_path):
    words = {word: i for i, word in enumerate("0123456789xyz")}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="x"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    path = tiny.folder(tmp_path / "model", dtype="float32")
    inner.save(str(path / "tokenizer.json"))
    return path


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("1 2 3 4 5 6 7 8 9 x y z " * 12)
    return path


def train(model, text, out, *more):
    return main(["train", str(model), str(text), "--out", str(out), *HOW, *more])


def bits(out):
    """All that a run leaves: arrays, by file."""
    return {name: load_file(out / f"{name}.safetensors") for name in ("checkpoint", "adapter_model")}


def assert_same_bits(a, b):
    for name, arrays in bits(a).items():
        others = bits(b)[name]
        assert arrays.keys() == others.keys()
        for key, array in arrays.items():
            np.testing.assert_array_equal(array, others[key])


def test_it_learns_and_writes_an_adapter(model, text, tmp_path, capsys):
    assert train(model, text, tmp_path / "out", "--steps", "40", "--sample", "1 2 3") == 0
    with (tmp_path / "out" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, 41))
    assert float(rows[-1]["held_out_loss"]) < float(rows[1]["held_out_loss"])
    assert [bool(row["held_out_loss"]) for row in rows] == [step % 2 == 0 for step in range(1, 41)]
    adapter = load(model).load_adapter(tmp_path / "out")
    assert any(np.any(p) for name, p in adapter.parameters.items() if "lora_B" in name)
    said = capsys.readouterr().err
    assert "step 40: held-out loss" in said
    assert "perplexity" in said


@pytest.mark.parametrize("dropout", ["0", "0.3"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(model, text, tmp_path, monkeypatch, dropout):
    assert train(model, text, tmp_path / "whole", "--dropout", dropout) == 0

    kept, saves = checkpoint.save, []

    def killed(path, state, about):
        kept(path, state, about)
        saves.append(state.step)
        if state.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)

    monkeypatch.setattr(checkpoint, "save", killed)
    assert train(model, text, tmp_path / "cut", "--dropout", dropout) == 128 + signal.SIGTERM
    assert saves == [0, 2]
    monkeypatch.undo()
    assert train(model, text, tmp_path / "cut", "--dropout", dropout, "--resume") == 0
    assert_same_bits(tmp_path / "whole", tmp_path / "cut")
    steps = [line.split(",")[0] for line in (tmp_path / "cut" / "metrics.csv").read_text().splitlines()]
    assert steps == ["step", *"123456"]


def metrics(out):
    """What metrics.csv says, but for how fast it was."""
    with (out / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_a_hundred_runs_killed_at_random_moments_go_on_to_the_same_bits(model, text, tmp_path, capsys):
    """SIGKILL at a moment of the whole run, its start and checkpoint writing included: each of 100 runs is killed once,
    and whatever there is then is enough. Every step saves, and a third of the kills wait for a file that is half
    written."""
    more = ["--steps", "30", "--every", "1"]
    command = [sys.executable, "-m", "npl_lora", "train", str(model), str(text), *HOW, *more, "--out"]
    begin = time.monotonic()
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    whole = time.monotonic() - begin
    right = bits(tmp_path / "whole"), metrics(tmp_path / "whole")

    def one(i):
        rng, out, quiet = np.random.default_rng(i), tmp_path / f"run{i}", dict.fromkeys(("stdout", "stderr"), -3)
        child = subprocess.Popen([*command, str(out)], **quiet)
        end = time.monotonic() + rng.uniform(0, whole)
        while child.poll() is None and not (time.monotonic() >= end and (i % 3 or any(out.glob(".*.new")))):
            time.sleep(1e-3 if time.monotonic() < end else 0)
        child.kill()
        was_killed = child.wait() == -signal.SIGKILL
        begun, half = (out / "checkpoint.safetensors").exists(), any(out.glob(".*.new"))
        place = "while writing" if half else "between" if begun else "before the first checkpoint"
        subprocess.run([*command, str(out), *(["--resume"] if begun else [])], check=True, **quiet)
        assert_same_bits(tmp_path / "whole", out)
        assert metrics(out) == right[1]
        assert not any(out.glob(".*"))
        shutil.rmtree(out)
        return place if was_killed else "after the end"

    with multiprocessing.pool.ThreadPool(2) as pool:
        places = Counter(pool.map(one, range(100), chunksize=1))
    with capsys.disabled():
        print(f"\n100 of 100 runs ended with the same bits; where they were killed: {dict(places)}")
    assert places["while writing"] >= 15
    assert places["after the end"] <= 25


def test_ctrl_c_while_a_checkpoint_is_written_leaves_the_last_one(model, text, tmp_path, monkeypatch, capsys):
    kept, count = os.fsync, iter(range(1000))

    def interrupted(number):
        kept(number)
        if next(count) == 6:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)

    assert train(model, text, tmp_path / "whole") == 0
    monkeypatch.setattr("os.fsync", interrupted)
    assert train(model, text, tmp_path / "cut") == 128 + signal.SIGINT
    assert "stopped by SIGINT; --resume goes on" in capsys.readouterr().err
    assert not any((tmp_path / "cut").glob(".*"))
    monkeypatch.undo()
    assert train(model, text, tmp_path / "cut", "--resume") == 0
    assert_same_bits(tmp_path / "whole", tmp_path / "cut")
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "cut")


def test_a_folder_that_takes_nothing(model, text, tmp_path, capsys):
    """A file in its place: the same as one without permission, which root has always."""
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "out", "/proc/nowhere"):
        assert train(model, text, out) == 2
        said = capsys.readouterr().err
        assert said.startswith("npl-lora train: ")
        assert said.count("\n") == 1


def test_metrics_that_a_kill_has_cut(model, text, tmp_path):
    """A row that is half there, and looks like another step's."""
    assert train(model, text, tmp_path / "whole") == 0
    file = tmp_path / "whole" / "metrics.csv"
    right = metrics(tmp_path / "whole")
    file.write_text(file.read_text() + "1")
    assert train(model, text, tmp_path / "whole", "--resume") == 0
    assert metrics(tmp_path / "whole") == right


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--steps", "0"], "--steps is 0, expected at least 1"),
        (["--batch", "0"], "--batch is 0"),
        (["--micro-batch", "0"], "--micro-batch is 0"),
        (["--rank", "0"], "r is 0, expected an integer of at least 1"),
        (["--lr", "nan"], "--lr is nan"),
        (["--length", "17"], "--length is 17, expected 2 to 16 positions"),
        (["--held-out", "1"], "--held-out is 1.0"),
        (["--target-modules", "query"], "'query', which is the name of no module: there are down_proj"),
        (["--resume"], "No such file"),
    ],
)
def test_what_is_refused_before_the_first_step(model, text, tmp_path, capsys, words, sentence):
    assert train(model, text, tmp_path / "out", *words) == 2
    said = capsys.readouterr().err
    assert said.startswith("npl-lora train: ")
    assert sentence in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"", "is empty"), (b"1 2 \xff", "is no text in UTF-8: byte 4 is 0xff"), (None, "No such")],
)
def test_text_that_is_none(model, tmp_path, capsys, content, sentence):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    assert train(model, path, tmp_path / "out") == 2
    assert sentence in capsys.readouterr().err


def test_a_run_is_not_written_over_and_not_mixed_up(model, text, tmp_path, capsys):
    assert train(model, text, tmp_path / "out") == 0
    assert train(model, text, tmp_path / "out") == 2
    assert "is there already: --resume goes on with it" in capsys.readouterr().err
    assert train(model, text, tmp_path / "out", "--resume", "--rank", "4") == 2
    assert "was made with adapter: r = 8, this run has 4" in capsys.readouterr().err


@pytest.mark.parametrize("keep", [0, 9, 200, -1])
def test_a_checkpoint_that_is_damaged(model, text, tmp_path, capsys, keep):
    assert train(model, text, tmp_path / "out") == 0
    file = tmp_path / "out" / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    assert train(model, text, tmp_path / "out", "--resume") == 2
    assert "cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize(("share", "sentence"), [("0.1", "the held-out loss is nan"), ("0", "loss is nan in step 1")])
def test_a_loss_that_is_not_finite(model, text, tmp_path, capsys, share, sentence):
    tiny.folder(model, dtype="float32", change=lambda arrays: arrays["lm_head.weight"].fill(np.nan))
    assert train(model, text, tmp_path / "out", "--held-out", share) == 1
    assert sentence in capsys.readouterr().err
    assert (tmp_path / "out" / "checkpoint.safetensors").exists()


def test_a_disk_that_takes_no_more_is_one_sentence_and_the_last_checkpoint_stays(model, text, tmp_path):
    """A limit on the size of files stands for a disk that fills up after the first checkpoint."""
    out = tmp_path / "out"
    assert train(model, text, out, "--steps", "2") == 0
    before = bits(out)
    short = (out / "checkpoint.safetensors").stat().st_size - 100
    more = [*HOW, "--out", str(tmp_path / "full")]
    command = [sys.executable, "-m", "npl_lora", "train", str(model), str(text), *more]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (short,) * 2),
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("checkpoint.safetensors: File too large"), done.stderr
    assert "Traceback" not in done.stderr
    left = tmp_path / "full"
    adapter = ["adapter_config.json", "adapter_model.safetensors"]  # comes first, and is small
    assert sorted(path.name for path in left.iterdir()) == [*adapter, "checkpoint.safetensors", "metrics.csv"]
    assert before["checkpoint"].keys() > load_file(left / "checkpoint.safetensors").keys()  # that of step 0
