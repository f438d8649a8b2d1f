"""A run from Python, as the package's docstring has it, and its picture."""

import csv
import textwrap

import numpy as np
import pytest
from models import tiny

import npl_lora.training
from npl_lora.models import load
from npl_lora.training import Recipe
from npl_lora.training.curve import running_means
from npl_lora.training.data import Row


def test_the_docstring_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hamlet.txt").write_text("1 2 3 4 5 6 7 8 9 x y z " * 12)
    folder = tiny.with_tokenizer(tiny.folder(tmp_path / "model", dtype="float32"))
    parts = npl_lora.training.__doc__.split("\n\n")[1:3]
    code = "\n".join(textwrap.dedent(part) for part in parts).replace("length=256", "length=8")
    namespace = {"MODEL": folder}
    exec(code.replace("steps=100", "steps=5"), namespace)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list("012345")
    again = namespace["model"].load_adapter("hamlet")
    for name, array in namespace["run"].state.adapter.parameters.items():
        np.testing.assert_array_equal(array, again.parameters[name])
    with open("hamlet/metrics.csv") as file:
        assert len(list(csv.DictReader(file))) == 6


def test_smoothing_keeps_what_is_constant_and_begins_with_the_first():
    np.testing.assert_allclose(running_means([3.0] * 5), 3.0, rtol=1e-14)
    np.testing.assert_allclose(running_means([1.0, 2.0], keep=0.5), [1.0, 5 / 3], rtol=1e-14)


def test_full_fine_tuning_is_refused_in_one_sentence(tmp_path):
    model = load(tiny.folder(tmp_path / "model", dtype="float32"))
    rows = [Row(np.arange(4), np.arange(4))]
    with pytest.raises(TypeError, match=r"adapter is a Full, expected LoRA: a run writes PEFT's files"):
        npl_lora.training.Run(model, model.full(), rows, (), Recipe(steps=1), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
