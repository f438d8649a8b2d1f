"""npl-lora judge, from the outside: exit status, report, table."""

import json
import subprocess
import sys

import pytest
from light import light
from oracle.dump_files import LORA, step, write

from npl_lora.cli import main
from npl_lora.oracle.dumps import unjudged


def npl_lora_judge(*words):
    command = [sys.executable, "-m", "npl_lora", "judge", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def report_of(tmp_path, *words):
    done = npl_lora_judge(*words, "--json", tmp_path / "report.json")
    return done, json.loads((tmp_path / "report.json").read_text())


def test_a_right_dump_passes(tmp_path):
    done, report = report_of(tmp_path, write(tmp_path / "step.safetensors", step()))
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(report) == {"protocol", "target", "verdict", "diagnosis", "contracts"}
    (case,) = report["contracts"]["lora_linear"]["cases"]
    assert case["verdict"] == "pass"
    assert list(case["outputs"]) == ["y", "dx", "dA", "dB"]
    for output in case["outputs"].values():
        assert output["error"] <= output["allowed"]
    for name in ("y", "dx", "dA", "dB", "pass"):
        assert name in done.stdout


def test_a_wrong_one_says_what_is_wrong(tmp_path):
    arrays = step("float64")
    wrong = {**arrays, "dB": arrays["dB"] * LORA["r"] / LORA["alpha"]}
    done, report = report_of(tmp_path, write(tmp_path / "step.safetensors", wrong, dtype="float64"))
    assert done.returncode == 1
    assert report["verdict"] == "fail"
    assert "dB: 0.428571 times the right answer, everywhere; 0.428571 = 1/s" in done.stdout
    assert done.stdout.index("0.428571 times") < done.stdout.index("judged")  # the sentence comes before the table
    sentence = report["contracts"]["lora_linear"]["says"]
    assert sentence
    assert f"\n{sentence}\n" in done.stdout


def test_what_could_not_be_seen_is_said(tmp_path):
    arrays = {name: array for name, array in step().items() if name != "W"}
    done = npl_lora_judge(write(tmp_path / "step.safetensors", arrays))
    assert done.returncode == 0
    assert "could not be checked: y on its own, because W is missing" in " ".join(done.stdout.split())


def test_a_folder_is_every_dump_in_it(tmp_path):
    folder = tmp_path / "dumps"
    folder.mkdir()
    write(folder / "a.safetensors", step())
    write(folder / "b.safetensors", {**step(), "y": 2 * step()["y"]})
    (folder / "c.safetensors").write_bytes(b"nothing")
    done, report = report_of(tmp_path, folder)
    assert done.returncode == 1
    assert [target["verdict"] for target in report["targets"]] == ["pass", "fail", "error"]


def test_layers_without_a_dump_are_named(tmp_path, capsys):
    folder = tmp_path / "dumps"
    folder.mkdir()
    write(folder / "a.safetensors", step())
    sentence = "head was not judged, because it is on an embedding"
    (folder / "not_judged.json").write_text(json.dumps({"head": sentence}))
    assert main(["judge", str(folder), "--json", str(tmp_path / "report.json")]) == 0
    assert f"not checked: {sentence}" in " ".join(capsys.readouterr().out.split())
    assert json.loads((tmp_path / "report.json").read_text())["not_judged"] == [sentence]


@pytest.mark.parametrize(
    "content", [b"[1]", b"\xff", b'{"a": 1, "a": 2}', b'{"a": "one\\ntwo \\u001b[31m"}', b"{", b'{"a": 1}']
)
def test_a_hostile_list_of_them_is_one_line_each(tmp_path, content):
    (tmp_path / "not_judged.json").write_bytes(content)
    (sentence,) = unjudged(tmp_path)
    assert sentence
    assert sentence.isprintable()


@pytest.mark.slow
def test_products_may_be_coarser_where_the_user_says_so(tmp_path):
    """A step whose factors were rounded to 11 bits before each product, as tensor cores with TF32 do."""
    import numpy as np

    arrays = step("float64")
    coarse = {n: a.astype(np.float16).astype(np.float64) for n, a in arrays.items() if n in ("x", "W", "A", "B", "dy")}
    s = LORA["alpha"] / LORA["r"]
    x, W, A, B, dy = (coarse[name] for name in ("x", "W", "A", "B", "dy"))
    rows_x, rows_dy = x.reshape(-1, 40), dy.reshape(-1, 50)
    answers = {
        "y": x @ W.T + arrays["b"] + s * (x @ A.T @ B.T),
        "dx": dy @ W + s * (dy @ B @ A),
        "dA": s * (rows_dy @ B).T @ rows_x,
        "dB": s * rows_dy.T @ (rows_x @ A.T),
    }
    single = {name: array.astype(np.float32) for name, array in {**arrays, **answers}.items()}
    path = write(tmp_path / "step.safetensors", single)
    assert npl_lora_judge(path).returncode == 1
    assert npl_lora_judge(path, "--precision", "tf32").returncode == 0


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    light(
        [
            ("garbage.safetensors", b"\xff" * 100, "is no safetensors file"),
            ("nothing.safetensors", None, "No such file or directory"),
            ("empty", "folder", "a folder without *.safetensors in it"),
        ]
    ),
)
def test_what_is_no_dump_is_one_sentence_and_exit_2(tmp_path, name, content, sentence):
    if content == "folder":
        (tmp_path / name).mkdir()
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    done = npl_lora_judge(tmp_path / name)
    assert done.returncode == 2
    assert sentence in " ".join(done.stdout.split())
    assert "Traceback" not in done.stderr


def test_nothing_to_judge_is_exit_2(tmp_path):
    arrays = {name: array for name, array in step().items() if name in ("x", "A", "B")}
    done = npl_lora_judge(write(tmp_path / "step.safetensors", arrays))
    assert done.returncode == 2
    assert "y is not in the dump" in " ".join(done.stdout.split())


def test_a_report_that_cannot_be_written_is_refused(tmp_path, capsys):
    path = write(tmp_path / "step.safetensors", step())
    missing = tmp_path / "no" / "report.json"
    assert main(["judge", str(path), "--json", str(missing)]) == 2
    sentence = f"argument --json: {missing} cannot be written: {missing.parent} is not a folder"
    assert capsys.readouterr() == ("", f"npl-lora: {sentence}; see npl-lora judge --help\n")
    assert main(["judge", str(path), "--json", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"npl-lora: {tmp_path}: Is a directory\n"
