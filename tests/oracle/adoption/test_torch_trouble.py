"""A layer that raises, hangs, prints or answers with something else: one clear line, and the check goes on."""

import os
from pathlib import Path

import pytest
from oracle.adoption.asked import checked

from npl_lora.cli import main
from npl_lora.cli.show import as_text
from npl_lora.oracle import TargetError, check
from npl_lora.oracle.subjects.process import ProcessSubject

pytestmark = pytest.mark.torch

HERE = Path(__file__).parent

NOT_ADOPTED = [
    ("RaisesWhenBuilt", "RaisesWhenBuilt was not adopted: its constructor, asked for in = 13, out = 11, r = 3, raised"),
    ("RaisesWhenBuilt", "raised KeyError: 'lora'. Write build(in_features, out_features, rank, alpha, dropout, bias)"),
    ("RefusesByAssert", "raised AssertionError: assert out_features % 3 == 0. Write build(in_features, out_features,"),
    ("ReturnsTwo", "ReturnsTwo was not adopted: its call returns a tuple of 2 arrays, expected one. Write a layer"),
    ("RefusesItsInput", "its forward refuses what it was handed: ValueError: expected a batch of images"),
    ("HasNoParameters", "it has 0 matrices (r, in) and 0 matrices (out, r), expected one of each. Its tensors: none"),
    (
        "WantsMore",
        "its forward needs routing, which no rule knows. Write a layer around it whose forward takes x alone",
    ),
    ("NeedsTask", "its constructor needs task_names, which no rule knows. Write build(in_features, out_features, rank"),
    ("build_number", "build_number returned int, expected a torch.nn.Module"),
]

JUDGED = [
    ("RaisesWhenCalled", "fail", "Called with x of shape (1, 5, 13) it raised KeyError: 'x'."),
    ("RaisesByMistake", "fail", "Called with x of shape (1, 5, 13) it raised KeyError: 'routing'."),
    ("NeedsCuda", "fail", "Called with x of shape (1, 5, 13) it raised "),
    ("AnswersATuple", "pass", "s = alpha / r."),
    ("AnswersNone", "fail", "it raised TypeError: forward returned None, expected a tensor."),
    ("AnswersAList", "fail", "it raised TypeError: forward returned a list, expected a tensor."),
    ("ChangesItsInput", "fail", "x is overwritten: a branch that uses it after the call gets other numbers (U3)."),
    ("NotFinite", "fail", "A or B is not finite at the start."),
]


@pytest.mark.parametrize(("name", "words"), NOT_ADOPTED)
def test_what_cannot_be_adopted_gets_a_sentence(name, words):
    with pytest.raises(TargetError) as error:
        checked("torch_trouble", name)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "verdict", "words"), JUDGED)
def test_a_layer_that_makes_trouble_is_judged(name, verdict, words):
    reports = checked("torch_trouble", name)
    assert reports.verdict == verdict, str(reports)
    assert words in str(reports)


@pytest.fixture
def _tests_on_the_path(monkeypatch):
    """The file imports its neighbour, in a process of its own too."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.usefixtures("_tests_on_the_path")
def test_a_layer_that_hangs_fails_in_that_case_alone():
    with ProcessSubject(f"{HERE / 'torch_trouble.py'}:HangsOnLongInputs", timeout=2.0) as subject:
        report = check(subject, dtypes=["float64"], contract="lora_linear")
    failing = [case.id for case in report.contracts[0].cases if case.verdict == "fail"]
    assert failing == ["lora_linear/many-tokens/float64"]
    assert "took longer than 2 s" in as_text([report])


@pytest.mark.usefixtures("_tests_on_the_path")
def test_what_a_layer_prints_does_not_matter():
    with ProcessSubject(f"{HERE / 'torch_trouble.py'}:Prints", timeout=20.0) as subject:
        assert check(subject, dtypes=["float64"], contract="lora_linear").verdict == "convention"


TWO_LAYERS = """
import torch
from torch import nn


class Helper(nn.Module):
    def __init__(self, sizes):
        super().__init__()


class Plain(nn.Module):
    def __init__(self, in_features, out_features, rank=4):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features), requires_grad=False)
        self.lora_A = nn.Parameter(torch.randn(rank, in_features) * 0.01)
        self.lora_B = nn.Parameter(torch.zeros(out_features, rank))

    def forward(self, x):
        return x @ self.weight.T + x @ self.lora_A.T @ self.lora_B.T


class Scaled(Plain):
    def __init__(self, in_features, out_features, rank, alpha):
        super().__init__(in_features, out_features, rank)
        self.s = alpha / rank

    def forward(self, x):
        return x @ self.weight.T + self.s * (x @ self.lora_A.T @ self.lora_B.T)
"""


def test_the_command_takes_a_file_of_layers_and_one_of_them(tmp_path, capsys):
    file = tmp_path / "layers.py"
    file.write_text(TWO_LAYERS)
    assert main(["check", str(file), "--dtype", "float64"]) == 0
    shown = capsys.readouterr().out
    assert "layers.py:Plain  convention" in shown
    assert "layers.py:Scaled  pass" in shown
    assert "Helper" not in shown
    for name, status in (("Plain", 1), ("Scaled", 0)):
        assert (
            main(["check", f"{file}:{name}", "--dtype", "float64", "--contract", "lora_linear", "--strict"]) == status
        )
