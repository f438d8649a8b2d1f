"""npl-lora generate, where it must refuse; what it prints of a real model is tested beside that model."""

import subprocess
import sys

import pytest
from models import tiny

from npl_lora.adapters import LoRAConfig, files
from npl_lora.cli import main
from npl_lora.models import load


@pytest.fixture
def folder(tmp_path):
    """A tiny model whose tokens are digits and x, y, z."""
    return tiny.with_tokenizer(tiny.folder(tmp_path / "model", dtype="float32"))


def test_it_prints_what_follows(folder, capsys):
    assert main(["generate", str(folder), "1 2 3", "--tokens", "4"]) == 0
    printed = capsys.readouterr()
    assert len(printed.out.split()) == 4
    assert "4 tokens, " in printed.err


def test_an_adapter_changes_it(folder, tmp_path, capsys):
    adapter = load(folder).attach(LoRAConfig(r=2, lora_alpha=60, target_modules="all-linear", init_lora_weights=False))
    files.save(adapter, tmp_path / "adapter")
    texts = []
    for more in ([], ["--adapter", str(tmp_path / "adapter")]):
        assert main(["generate", str(folder), "1 2 3", "--tokens", "9", *more]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] != texts[1]


def test_what_a_user_says_is_answered(folder, capsys):
    """The template puts x before what is said and y where the answer begins: that text, continued, is the same."""
    printed = []
    for words in (["1 2", "--chat"], ["x 1 2 z y"], ["1 2"]):
        assert main(["generate", str(folder), *words, "--tokens", "6"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != printed[2]


def test_a_model_without_a_template_answers_nothing(folder, capsys):
    (folder / "tokenizer_config.json").write_text("{}")
    assert main(["generate", str(folder), "1 2", "--chat"]) == 2
    assert capsys.readouterr().err == "npl-lora: the model has no chat template\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere", "1"], "there is no nowhere"),
        (["MODEL", ""], "tokens is empty"),
        (["MODEL", "1", "--top-p", "0"], "top_p is 0.0"),
        (["MODEL", "1", "--temperature", "-1"], "temperature is -1.0"),
        (["MODEL", "1", "--adapter", "nowhere"], "there is no folder nowhere"),
        (["MODEL", "1 " * 20], "20 of the model's 16 positions"),
    ],
)
def test_what_cannot_be_used_is_one_sentence_and_exit_2(folder, capsys, words, sentence):
    assert main(["generate", *(str(folder) if word == "MODEL" else word for word in words)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("npl-lora: ")
    assert sentence in said
    assert said.count("\n") == 1


def test_a_reader_that_has_read_enough_is_no_fault(folder):
    command = f"{sys.executable} -m npl_lora generate {folder} '1 2' --tokens 8 | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
