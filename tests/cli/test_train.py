"""npl-lora train on a tiny model: what it writes, that it learns, that a stop loses nothing, and what it refuses."""

import contextlib
import csv
import json
import multiprocessing.pool
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime
from unittest.mock import Mock

import numpy as np
import pytest
import tokenizers
from light import light
from models import tiny
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from training.templates import DATED

from npl_lora.cli import main
from npl_lora.models import _chat as chat
from npl_lora.models import load, load_tokenizer
from npl_lora.training import checkpoint, data, loop
from npl_lora.training.metrics import FIELDS, MetricsFile

HOW = ["--steps", "6", "--every", "2", "--length", "8", "--batch", "3", "--micro-batch", "2", "--lr", "0.05"]


@pytest.fixture
def model(tmp_path):
    return tiny.with_tokenizer(tiny.folder(tmp_path / "model", dtype="float32"))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("1 2 3 4 5 6 7 8 9 x y z " * 12)
    return path


@pytest.fixture(params=light(["csv", "jsonl", "txt"]))
def any_kind(request, tmp_path, text):
    """Something that can be learned of each kind, and a model to learn it: (model, data)."""
    path, rng = tmp_path / f"data.{request.param}", np.random.default_rng(0)
    digits = [rng.permutation(list("0123456789"))[:4] for _ in range(30)]
    if request.param == "txt":
        path = text
    elif request.param == "jsonl":
        turns = [[("user", " ".join(d)), ("assistant", " ".join(d[:2]))] for d in digits]
        rows = [{"messages": [{"role": role, "content": said} for role, said in turn]} for turn in turns]
        rows[::2] = [{"prompt": " ".join(d), "completion": d[0]} for d in digits[::2]]
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        kinds = [("01234", "low")] * 15 + [("56789", "high")] * 15
        rows = [f"{' '.join(rng.choice(list(digits), 4))},{label}" for digits, label in kinds]
        path.write_text("\n".join(["text,label", *rows]))
    kind = "bert" if request.param == "csv" else "llama"
    change = _tell_words_apart if kind == "bert" else None
    return tiny.with_tokenizer(tiny.folder(tmp_path / f"for-{request.param}", kind, "float32", change)), path


def _tell_words_apart(arrays):
    """The features of the random BERT hardly depend on its words, and nothing could be learned from them."""
    for name, array in arrays.items():
        if "LayerNorm" in name or name.endswith("bias"):
            array.fill(name.endswith("weight"))
    arrays["bert.embeddings.word_embeddings.weight"] *= 20


def train(model, text, out, *more):
    return main(["train", str(model), str(text), "--out", str(out), *HOW, *more])


def bits(out):
    """All that a run leaves: arrays, by file, and the numbers that a checkpoint has beside them."""
    found = {name: load_file(out / f"{name}.safetensors") for name in ("checkpoint", "adapter_model")}
    with safe_open(out / "checkpoint.safetensors", "np") as file:
        numbers = json.loads(file.metadata()["numbers"])
    return found | {"numbers": {name: np.array(json.dumps(value)) for name, value in numbers.items()}}


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
    assert [int(row["step"]) for row in rows] == list(range(41))
    assert float(rows[-1]["held_out_loss"]) < float(rows[0]["held_out_loss"])
    assert [bool(row["held_out_loss"]) for row in rows] == [step % 2 == 0 for step in range(41)]
    assert not rows[0]["loss"]
    adapter = load(model).load_adapter(tmp_path / "out")
    assert any(np.any(p) for name, p in adapter.parameters.items() if "lora_B" in name)
    said = capsys.readouterr().err
    assert "step 40: held-out loss" in said
    assert "perplexity" in said


@pytest.mark.slow
def test_it_learns_from_every_kind_of_data(any_kind, tmp_path, capsys):
    assert train(*any_kind, tmp_path / "out", "--steps", "40", "--every", "20", "--held-out", "0.3") == 0
    with (tmp_path / "out" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    mean = [sum(float(row["loss"]) for row in part) for part in (rows[1:11], rows[-10:])]
    assert mean[1] < 0.9 * mean[0]
    assert "held-out loss" in capsys.readouterr().err
    is_classified = any_kind[1].suffix == ".csv"
    assert bool(rows[-1]["held_out_accuracy"]) == is_classified
    classes = tmp_path / "out" / "classes.json"
    right = {"classes": ["high", "low"], "pooling": "pooler"}
    assert (json.loads(classes.read_text()) == right) if is_classified else not classes.exists()
    assert (tmp_path / "out" / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_every_kind_of_data_goes_on_to_the_same_bits(any_kind, tmp_path, monkeypatch):
    """Stopped at each of its evaluations, and with patience, which counts them."""
    more = ["--dropout", "0.2", "--patience", "2", "--every", "1", "--held-out", "0.3"]
    assert train(*any_kind, tmp_path / "whole", *more) == 0
    kept, stops, out = checkpoint.save, [], tmp_path / "cut"

    class Killed(BaseException):
        """As SIGKILL: nobody saves anything on the way out."""

    def killed(path, state, about):
        kept(path, state, about)
        saves.append(state.step)
        if len(saves) == 1 + (len(stops) > 0):  # the first time at the first save of all, then at the second of each
            stops.append(state.step)
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", killed)
        for _ in range(20):
            saves = []
            with contextlib.suppress(Killed):
                assert train(*any_kind, out, *more, *(["--resume"] if stops else [])) == 0
                break
    assert len(stops) >= 4
    assert stops[:2] == [0, 1]
    assert_same_bits(tmp_path / "whole", out)


def test_patience_ends_a_run_that_gets_worse_and_leaves_the_best_adapter(model, text, tmp_path, capsys):
    out, more = tmp_path / "out", ["--steps", "60", "--every", "1", "--patience", "3", "--lr", "0.5"]
    assert train(model, text, out, *more) == 0
    with (out / "metrics.csv").open() as file:
        held = [float(row["held_out_loss"]) for row in csv.DictReader(file)]
    said = capsys.readouterr().err
    best = int(np.argmin(held))
    assert len(held) - 1 == best + 3 < 60
    assert f"the adapter is that of step {best}, held-out loss" in said
    assert train(model, text, out, *more, "--resume") == 0  # there is nothing left to do
    with (out / "metrics.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(held)
    how = dict(micro=2, padding=0)
    found = data.read(text, load_tokenizer(model), 8)
    again = loop.evaluate_rows(load(model), load(model).load_adapter(out), found.split(0.1)[1], **how)
    assert best > 0
    assert again.loss == min(held)


def test_patience_needs_something_to_judge_by(model, text, tmp_path, capsys):
    assert train(model, text, tmp_path / "out", "--patience", "2", "--held-out", "0") == 2
    assert "held_out is empty, expected rows that patience judges by" in capsys.readouterr().err


def test_other_data_is_another_run(model, text, tmp_path, capsys):
    assert train(model, text, tmp_path / "out") == 0
    text.write_text(text.read_text()[2:])
    assert train(model, text, tmp_path / "out", "--resume") == 2
    assert "was made with other rows: the data, --length" in capsys.readouterr().err


def test_the_fields_of_lora_come_from_a_file_and_the_command_line_goes_first(model, text, tmp_path):
    fields = {"r": 5, "lora_alpha": 3, "layers_to_transform": [1], "bias": "none", "rank_pattern": {"q_proj": 2}}
    (tmp_path / "lora.json").write_text(json.dumps({**fields, "target_modules": ["q_proj", "v_proj"]}))
    assert train(model, text, tmp_path / "out", "--lora", str(tmp_path / "lora.json"), "--alpha", "7") == 0
    adapter = load(model).load_adapter(tmp_path / "out")
    assert {path: p.shape[0] for path, p in adapter.parameters.items() if "lora_A" in path} == {
        "model.layers.1.self_attn.q_proj.lora_A.weight": 2,
        "model.layers.1.self_attn.v_proj.lora_A.weight": 5,
    }
    assert adapter.config.lora_alpha == 7


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[]", "is list in JSON"),
        ('{"r": "8"}', "r is '8'"),
        ('{"lora_alhpa": 8}', "'lora_alhpa' is no field of PEFT's LoraConfig; those used here are r, lora_alpha, "),
        (None, "No"),
    ],
)
def test_a_file_of_fields_that_is_none(model, text, tmp_path, capsys, content, sentence):
    path = tmp_path / "lora.json"
    if content is not None:
        path.write_text(content)
    assert train(model, text, tmp_path / "out", "--lora", str(path)) == 2
    assert sentence in capsys.readouterr().err


def test_without_matplotlib_the_curve_is_missed_with_one_line(model, text, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert train(model, text, tmp_path / "out") == 0
    assert "the loss curve needs matplotlib: pip install 'npl-lora[plots]'" in capsys.readouterr().err
    assert not (tmp_path / "out" / "curve.png").exists()


def test_rows_that_are_cut_are_counted(model, tmp_path, capsys):
    path = tmp_path / "data.jsonl"
    rows = [("1 2", "3"), ("1 2", "3 4 5 6 7 8 9 0"), ("1 2 3 4 5 6 7 8 9", "0")]
    path.write_text("\n".join(json.dumps({"prompt": p, "completion": c}) for p, c in rows))
    assert train(model, path, tmp_path / "out") == 0
    said = capsys.readouterr().err
    assert "2 rows, 1 cut to 8 tokens, 1 dropped because truncation removed every label" in said


@pytest.mark.parametrize("dropout", light(["0.3", "0"]))
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
    assert saves == [0, 0, 2, 2]  # whether the second was whole, nobody knows
    monkeypatch.undo()
    assert train(model, text, tmp_path / "cut", "--dropout", dropout, "--resume") == 0
    assert_same_bits(tmp_path / "whole", tmp_path / "cut")
    steps = [line.split(",")[0] for line in (tmp_path / "cut" / "metrics.csv").read_text().splitlines()]
    assert steps == ["step", *"0123456"]


def test_a_run_that_is_stopped_between_two_saves_keeps_its_last_step(model, text, tmp_path, monkeypatch, capsys):
    """Also with patience, where the adapter in the folder is that of the best step and no other."""
    for more in ([], ["--patience", "5"]):
        how = ["--every", "4", "--held-out", "0.3", *more]
        whole, cut = (tmp_path / f"{name}{len(more)}" for name in ("whole", "cut"))
        assert train(model, text, whole, *how) == 0
        kept = MetricsFile.add

        def stopped(self, step, *given, kept=kept):
            kept(self, step, *given)
            if step == 4:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)

        with monkeypatch.context() as patch:
            patch.setattr(MetricsFile, "add", stopped)
            assert train(model, text, cut, *how) == 128 + signal.SIGINT
        assert "stopped by SIGINT; --resume continues from step 3" in capsys.readouterr().err
        assert train(model, text, cut, *how, "--resume") == 0
        assert_same_bits(whole, cut)
        assert metrics(whole) == metrics(cut)


@pytest.mark.slow
def test_the_same_model_elsewhere_is_the_same_and_another_is_not(model, text, tmp_path, capsys):
    out = tmp_path / "out"
    assert train(model, text, out) == 0
    moved = model.rename(tmp_path / "moved")
    assert train(moved, text, out, "--resume") == 0
    tiny.folder(moved, dtype="float32", change=lambda arrays: arrays["model.norm.weight"].fill(1))
    assert train(moved, text, out, "--resume") == 2
    assert "was made with another model" in capsys.readouterr().err


def test_an_adapter_that_is_there_is_left_alone(model, text, tmp_path, capsys):
    assert train(model, text, tmp_path / "out") == 0
    (tmp_path / "out" / "checkpoint.safetensors").unlink()
    assert train(model, text, tmp_path / "out") == 2
    assert (
        "adapter_model.safetensors already exists, without a checkpoint: choose another --out"
        in capsys.readouterr().err
    )


def metrics(out):
    """What metrics.csv says, but for how fast it was."""
    with (out / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_a_hundred_runs_killed_at_random_moments_go_on_to_the_same_bits(model, text, tmp_path, capsys):
    """SIGKILL at a moment of the whole run, its start and checkpoint writing included: each of 100 runs is killed once,
    and whatever there is then is enough. Every step saves, and a third of the kills wait for a file that is half
    written."""
    more = ["--steps", "30", "--every", "1", "--dropout", "0.2", "--patience", "30"]
    command = [sys.executable, "-m", "npl_lora", "train", str(model), str(text), *HOW, *more, "--out"]
    begin = time.monotonic()
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    whole = time.monotonic() - begin
    right = metrics(tmp_path / "whole")

    def one(i, share=1.0):
        rng, out, quiet = np.random.default_rng(i), tmp_path / f"run{i}", dict.fromkeys(("stdout", "stderr"), -3)
        child = subprocess.Popen([*command, str(out)], **quiet)
        end = time.monotonic() + rng.uniform(0, share * whole)
        while child.poll() is None and not (time.monotonic() >= end and (i % 3 or any(out.glob(".*.new")))):
            time.sleep(1e-3 if time.monotonic() < end else 0)
        child.kill()
        was_killed = child.wait() == -signal.SIGKILL
        begun, half = (out / "checkpoint.safetensors").exists(), any(out.glob(".*.new"))
        if not was_killed:  # it was quicker than the first one: once more, earlier
            shutil.rmtree(out)
            return one(i, share / 2)
        place = "while writing" if half else "between" if begun else "before the first checkpoint"
        subprocess.run([*command, str(out), *(["--resume"] if begun else [])], check=True, **quiet)
        assert_same_bits(tmp_path / "whole", out)
        assert metrics(out) == right
        assert not any(out.glob(".*"))
        shutil.rmtree(out)
        return place

    with multiprocessing.pool.ThreadPool(2) as pool:
        places = Counter(pool.map(one, range(100), chunksize=1))
    with capsys.disabled():
        print(f"\n100 of 100 runs ended with the same bits; where they were killed: {dict(places)}")
    assert places["while writing"] >= 15
    assert places["between"] >= 15
    assert places["before the first checkpoint"] >= 5


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
    assert "stopped by SIGINT; --resume continues" in capsys.readouterr().err
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
        assert said.startswith("npl-lora: ")
        assert said.count("\n") == 1


def test_a_tokenizer_of_another_model(model, text, tmp_path, capsys):
    """A token that the model has not is refused before anything is written, and before hours are spent."""
    words = {word: i for i, word in enumerate("xyz0123456789")} | {"new": 13}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="x"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.save(str(model / "tokenizer.json"))
    text.write_text("1 2 3 4 5 6 7 8 " * 5 + "9 new")
    said = "row 6 has the token 13, but the model has 13 tokens: the tokenizer belongs to another model"
    assert train(model, text, tmp_path / "out") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["eval", str(model), str(text), "--length", "8"]) == 2
    assert said in capsys.readouterr().err


def test_a_loss_that_is_not_finite_is_named_with_where_it_came_from(model, text, tmp_path, capsys):
    arrays = load_file(model / "model.safetensors")
    arrays["model.layers.1.mlp.up_proj.weight"][0, 0] = np.nan
    save_file(arrays, model / "model.safetensors")
    assert train(model, text, tmp_path / "out", "--allow-nonfinite") == 1
    said = capsys.readouterr().err
    assert "the held-out loss is nan: first in model.layers.1.mlp.up_proj.weight, which is not finite itself" in said
    assert train(model, text, tmp_path / "other", "--held-out", "0", "--allow-nonfinite") == 1
    said = capsys.readouterr().err
    assert "the loss is nan in step 1: first in model.layers.1.mlp.up_proj.weight, which is not finite itself" in said


def test_metrics_of_a_run_that_has_taken_no_step_are_said_again(tmp_path):
    rows = [",".join(str(step) if field == "step" else "" for field in FIELDS) for step in (0, 1, 2)]
    file = tmp_path / "metrics.csv"
    for taken, kept in ((0, []), (1, rows[:2])):
        file.write_text("\n".join(["", *rows, ""]))
        MetricsFile(file, taken)
        assert file.read_text().splitlines() == [",".join(FIELDS), *kept]


@pytest.mark.slow
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
        (["--steps", "0"], "steps is 0, expected at least 1"),
        (["--batch", "0"], "batch is 0, expected at least 1"),
        (["--micro-batch", "0"], "micro_batch is 0, expected at least 1"),
        (["--rank", "0"], "r is 0, expected an integer of at least 1"),
        (["--lr", "nan"], "lr is nan, expected a finite number above 0"),
        (["--every", "0"], "every is 0, expected at least 1"),
        (["--length", "17"], "--length is 17, expected 2 to 16 positions"),
        (["--held-out", "1"], "the share held out is 1.0, expected 0 <= share < 1"),
        (["--target-modules", "query"], "'query', which is the name of no module: there are down_proj"),
        (["--resume"], "checkpoint.safetensors, expected a run to continue"),
    ],
)
def test_what_is_refused_before_the_first_step(model, text, tmp_path, capsys, words, sentence):
    assert train(model, text, tmp_path / "out", *words) == 2
    said = capsys.readouterr().err
    assert said.startswith("npl-lora: ")
    assert sentence in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"", "is empty"), (b"1 2 \xff", "is not text in UTF-8: byte 4 is 0xff"), (None, "No such")],
)
def test_text_that_is_none(model, tmp_path, capsys, content, sentence):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    assert train(model, path, tmp_path / "out") == 2
    assert sentence in capsys.readouterr().err


def test_a_run_whose_rows_show_the_date_resumes_on_another_day(tmp_path, monkeypatch, capsys):
    folder = tiny.with_tokenizer(tiny.folder(tmp_path / "model", dtype="float32"), chat_template=DATED)
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out"
    row = {"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]}
    rows.write_text("\n".join([json.dumps(row)] * 8))
    assert train(folder, rows, out) == 0
    monkeypatch.setattr(chat, "datetime", Mock(now=lambda: datetime(2024, 7, 26)))
    assert train(folder, rows, tmp_path / "other") == 0
    assert metrics(out) != metrics(tmp_path / "other")
    assert train(folder, rows, out, "--resume") == 0
    rows.write_text(rows.read_text().replace('"2"', '"3"'))
    assert train(folder, rows, out, "--resume") == 2
    assert "was made with other rows" in capsys.readouterr().err


def test_what_is_learned_is_seen_before_hours_are_spent(tmp_path, capsys):
    folder = tiny.with_tokenizer(tiny.folder(tmp_path / "model", dtype="float32"))
    rows = tmp_path / "rows.jsonl"
    turns = [{"role": "user", "content": "1 2"}, {"role": "assistant", "content": "3"}]
    rows.write_text("\n".join([json.dumps({"messages": turns}), *['{"prompt": "4", "completion": "5"}'] * 3]))
    assert main(["train", str(folder), str(rows), "--look"]) == 0
    printed = capsys.readouterr().out
    assert [line.split() for line in printed.splitlines()] == [
        ["4", "rows"],
        ["row", "1:", "7", "tokens,", "2", "learned"],
        ["shown", "x", "1", "2", "z", "y", "10", "1", "2", "12", "11"],
        ["learned", "3", "z", "3", "12"],
        *[["row", "2:", "2", "tokens,", "1", "learned"], ["shown", "4", "4"], ["learned", "5", "5"]],
        *[["row", "3:", "2", "tokens,", "1", "learned"], ["shown", "4", "4"], ["learned", "5", "5"]],
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "rows.jsonl"]
    assert train(folder, rows, tmp_path / "out") == 0
    assert "shown    x 1 2 z y  10 1 2 12 11" in capsys.readouterr().err


def test_a_language_model_learns_to_classify(tmp_path, capsys):
    folder = tiny.with_tokenizer(tiny.folder(tmp_path / "model", "qwen3", dtype="float32"))
    table, out = tmp_path / "a.csv", tmp_path / "out"
    table.write_text("text,label\n" + "1 2 3,low\n8 9,high\n" * 9)
    assert train(folder, table, out, "--steps", "30") == 0
    assert json.loads((out / "classes.json").read_text()) == {"classes": ["high", "low"], "pooling": "last"}
    capsys.readouterr()
    assert main(["eval", str(folder), str(table), "--adapter", str(out), "--length", "8"]) == 0
    assert "accuracy 1.0000" in capsys.readouterr().out
    assert main(["eval", str(folder), str(table), "--length", "8"]) == 2
    assert "--adapter" in capsys.readouterr().err
    assert main(["generate", str(folder), "1", "--adapter", str(out)]) == 2
    assert "is the adapter of a classifier, expected that of a language model" in capsys.readouterr().err


def test_a_classifier_is_shown_with_its_class(tmp_path, capsys):
    folder = tiny.with_tokenizer(tiny.folder(tmp_path / "model", "bert", dtype="float32"))
    table = tmp_path / "a.csv"
    table.write_text("text,label\n1 2,low\n7 8,high\n")
    assert main(["train", str(folder), str(table), "--look"]) == 0
    assert "row 1: 2 tokens, class 'low'" in capsys.readouterr().out
    assert main(["train", str(folder), str(table)]) == 2
    assert "--out is missing: name the folder to write" in capsys.readouterr().err


def test_a_run_is_not_written_over_and_not_mixed_up(model, text, tmp_path, capsys):
    assert train(model, text, tmp_path / "out") == 0
    assert train(model, text, tmp_path / "out") == 2
    assert "already exists: --resume continues it, another --out starts a new run" in capsys.readouterr().err
    assert train(model, text, tmp_path / "out", "--resume", "--rank", "4") == 2
    assert "was made with adapter: r = 8, this run has 4" in capsys.readouterr().err


@pytest.mark.parametrize("keep", light([200, 0, 9, -1]))
def test_a_checkpoint_that_is_damaged(model, text, tmp_path, capsys, keep):
    assert train(model, text, tmp_path / "out") == 0
    file = tmp_path / "out" / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    assert train(model, text, tmp_path / "out", "--resume") == 2
    assert "cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize(("share", "sentence"), [("0.1", "the held-out loss is nan"), ("0", "loss is nan in step 1")])
def test_a_loss_that_is_not_finite(model, text, tmp_path, capsys, share, sentence):
    tiny.folder(model, dtype="float32", change=lambda arrays: arrays["lm_head.weight"].fill(np.nan))
    assert train(model, text, tmp_path / "out", "--held-out", share, "--allow-nonfinite") == 1
    assert sentence in capsys.readouterr().err
    assert (tmp_path / "out" / "checkpoint.safetensors").exists()


@pytest.mark.slow
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
