"""npl-lora vectors and --expect-fail, from the outside."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from cli.test_check import RIGHT, WRONG, npl_lora_check

from npl_lora.cli import main

WRITE = ("write", "vectors", "--contract", "lora_merge", "--dtype", "float32")


def npl_lora_vectors(folder, *words):
    command = [sys.executable, "-m", "npl_lora", "vectors", *map(str, words)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with "vectors", and right "answers" to them."""
    folder = tmp_path_factory.mktemp("work")
    done = npl_lora_vectors(folder, *WRITE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "7 vectors in vectors\n"
    shutil.copytree(folder / "vectors" / "answers", folder / "answers")
    return folder


@pytest.mark.slow
def test_right_answers_pass(written, tmp_path):
    done = npl_lora_vectors(written, "judge", "vectors", "answers", "--json", tmp_path / "report.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7/7" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["verdict"] == "pass"
    assert set(report) == {"protocol", "target", "verdict", "diagnosis", "contracts"}
    assert report["contracts"]["lora_merge"]["says"] == ""


@pytest.mark.slow
def test_wrong_answers_fail_and_no_answers_are_an_error(written, tmp_path):
    wrong = tmp_path / "wrong"
    shutil.copytree(written / "answers", wrong)
    os.truncate(wrong / "lora_merge" / "plain" / "float32.safetensors", 50)
    done = npl_lora_vectors(written, "judge", "vectors", wrong)
    assert done.returncode == 1
    assert "not a valid safetensors file" in done.stdout
    (tmp_path / "nothing").mkdir()
    assert npl_lora_vectors(written, "judge", "vectors", tmp_path / "nothing").returncode == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (WRITE, "vectors is not empty"),
        (("judge", "answers", "answers"), "manifest.json cannot be read"),
        (("judge", "vectors", "no-such-folder"), "no-such-folder is not a folder"),
        (("judge", "vectors", "answers", "--expect-fail", "no-such-file"), "no-such-file: No such file"),
        (("write", "more", "--contract", "lora_nothing"), "lora_nothing"),
        (("write", "more", "--dtype", "float8"), "'float8' is not one of"),
    ],
)
def test_bad_arguments_are_one_sentence_and_exit_2(written, words, sentence, monkeypatch, capsys):
    monkeypatch.chdir(written)
    assert main(["vectors", *words]) == 2
    out, err = capsys.readouterr()
    assert sentence in out + err
    assert (out + err).count("\n") == 1


@pytest.mark.slow
def test_expected_failures_of_vectors_are_strict(written, tmp_path):
    known = tmp_path / "known.toml"
    known.write_text('"lora_merge/plain/float32" = "ours differs"\n')
    done = npl_lora_vectors(written, "judge", "vectors", "answers", "--expect-fail", known)
    assert done.returncode == 1
    assert "passes, but was expected to fail: ours differs" in done.stdout


def test_without_mpmath_the_sentence_says_how_to_get_it(tmp_path):
    code = "import sys\nsys.modules['mpmath'] = None\nfrom npl_lora.cli import main\nsys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, "vectors", *WRITE], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "npl-lora: writing vectors needs mpmath: pip install 'npl-lora[vectors]'\n"


@pytest.mark.slow
def test_check_expects_a_fault_by_its_id(tmp_path):
    known = tmp_path / "known.json"
    known.write_text('{"S5": "dB is scaled by the optimiser"}')
    done = npl_lora_check(WRONG, "--expect-fail", known)
    assert done.returncode == 0, done.stdout
    assert "wrong as expected" in done.stdout
    assert "dB is scaled by the optimiser" in done.stdout
    done = npl_lora_check(RIGHT, "--expect-fail", known)
    assert done.returncode == 1
    assert "S5 matches no failure, but was expected to fail" in done.stdout


def test_expect_fail_is_about_one_target(tmp_path):
    (tmp_path / "known.json").write_text("{}")
    done = npl_lora_check(RIGHT, WRONG, "--expect-fail", tmp_path / "known.json")
    assert done.returncode == 2
    assert "one implementation" in done.stderr
