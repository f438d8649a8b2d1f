"""npl-lora check, from the outside: exit status, report, table."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from itertools import takewhile
from pathlib import Path

import pytest

import npl_lora
from npl_lora.cli import main
from npl_lora.oracle import CONTRACTS, DTYPES

EXAMPLES = Path(npl_lora.__file__).parents[1] / "examples"
RIGHT, WRONG = EXAMPLES / "my_lora.py", EXAMPLES / "my_lora_with_a_fault.py"


def npl_lora_check(*words, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "npl_lora", "check", *map(str, words)], cwd=cwd, capture_output=True, text=True
    )


def report_of(tmp_path, *words):
    done = npl_lora_check(*words, "--json", tmp_path / "report.json")
    return done, json.loads((tmp_path / "report.json").read_text())


def write(tmp_path, body):
    file = tmp_path / "mine.py"
    file.write_text("import numpy as np\n" + body)
    return file


@pytest.mark.slow
def test_self_is_right_in_every_contract(tmp_path):
    done, report = report_of(tmp_path, "self")
    assert done.returncode == 0, done.stdout + done.stderr
    assert report["verdict"] == "pass"
    assert set(report["contracts"]) == set(CONTRACTS)
    for contract in report["contracts"].values():
        assert {case["dtype"] for case in contract["cases"]} >= set(DTYPES)
        assert {case["verdict"] for case in contract["cases"]} == {"pass"}
    proofs = [c["message"] for t in report["contracts"].values() for c in t["cases"] if c["dtype"] == "integer"]
    assert len(proofs) == 4
    assert all("probability < 2^-75" in message for message in proofs)


def test_a_right_file_passes(tmp_path):
    done, report = report_of(tmp_path, RIGHT)
    assert done.returncode == 0, done.stdout
    assert report["verdict"] == "pass"
    assert report["protocol"] == 1
    assert set(report) == {"protocol", "target", "verdict", "diagnosis", "contracts"}


def test_a_planted_fault_is_located(tmp_path):
    done, report = report_of(tmp_path, WRONG)
    assert done.returncode == 1
    cases = report["contracts"]["lora_linear"]["cases"]
    for case in cases:
        assert case["verdict"] == "fail"
        assert {n for n, output in case["outputs"].items() if output["verdict"] == "fail"} == {"dB"}
        assert case["outputs"]["dB"]["error"] > case["outputs"]["dB"]["allowed"]
    assert "dB: 0.4 times the right answer, everywhere" in cases[0]["message"]
    assert "fail" in done.stdout
    assert "dB" in done.stdout
    sentence = report["contracts"]["lora_linear"]["says"]
    assert sentence.startswith("dB ")
    assert "(S5)" in sentence
    assert f"\nlora_linear: {sentence}\n" in done.stdout  # one line: what is no terminal does not wrap
    assert done.stdout.index(sentence) < done.stdout.index("worst output")


def in_terminal(columns, *words):
    """What `npl-lora check` prints in a terminal of so many columns, without colours."""
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-m", "npl_lora", "check", *map(str, words)]
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    env |= {"TERM": "xterm"}
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=terminal, stderr=subprocess.DEVNULL, env=env)
    os.close(terminal)
    text = b""
    try:
        while chunk := os.read(master, 4096):
            text += chunk
    except OSError:  # the child has closed the terminal
        pass
    os.close(master)
    child.wait()
    return re.sub(r"\x1b\[[0-9;]*m", "", text.decode()).replace("\r\n", "\n")


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 100])
def test_in_a_terminal_sentences_wrap_at_its_width(columns):
    """What continues a sentence is indented, and comes before the table."""
    head, first, *rest = in_terminal(columns, WRONG, "--contract", "lora_linear", "--dtype", "float32").splitlines()
    assert max(map(len, rest)) <= columns
    wrapped = list(takewhile(lambda line: line.strip(), [first, *rest]))
    assert head.endswith("my_lora_with_a_fault.py  fail")
    assert first.startswith("lora_linear: dB ")
    assert len(wrapped) > 1
    assert all(len(line) <= columns for line in wrapped)
    assert all(line.startswith("  ") and line[2] != " " for line in wrapped[1:])
    whole = " ".join(line.strip() for line in wrapped)
    assert whole.endswith(".")
    assert len(whole) > columns
    assert "worst output" in "\n".join(rest[len(wrapped) - 1 :])


@pytest.mark.slow
def test_dtype_asks_only_these(tmp_path):
    _, report = report_of(tmp_path, RIGHT, "--dtype", "float32,float16")
    assert {case["dtype"] for case in report["contracts"]["lora_linear"]["cases"]} == {"float32", "float16"}


@pytest.mark.parametrize(
    "words",
    [("--contract", "lora_merge,rope"), ("--contract", "lora_merge", "--contract", "rope")],
    ids=["list", "twice"],
)
def test_contract_asks_all_that_are_named(tmp_path, words, capsys):
    body = "".join(f"def {name}(case):\n    return {{}}\n" for name in ("lora_merge", "rope", "rms_norm"))
    file = tmp_path / "report.json"
    words = (*words, "--dtype", "float32", "--dtype", "float16", "--json", str(file))
    assert main(["check", str(write(tmp_path, body)), *words]) == 1
    report = json.loads(file.read_text())
    assert list(report["contracts"]) == ["lora_merge", "rope"]
    assert {case["dtype"] for case in report["contracts"]["rope"]["cases"]} == {"float32", "float16"}


def test_a_contract_that_is_named_and_not_there_is_an_error(tmp_path, capsys):
    file = write(tmp_path, "def lora_merge(case):\n    return {}\n")
    assert main(["check", str(file), "--contract", "lora_merge,rope"]) == 2
    assert "has no function named rope (there are: lora_merge)" in capsys.readouterr().out


def without_ml_dtypes(*words):
    code = "import sys\nsys.modules['ml_dtypes'] = None\nfrom npl_lora.cli import main\nsys.exit(main(sys.argv[1:]))"
    return subprocess.run([sys.executable, "-c", code, "check", *words], capture_output=True, text=True)


def test_without_ml_dtypes_bfloat16_is_left_out_and_that_is_said(tmp_path):
    file = tmp_path / "report.json"
    done = without_ml_dtypes("self", "--contract", "lora_merge", "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not checked: bfloat16 needs ml_dtypes: pip install 'npl-lora[files]'\n" in done.stdout
    dtypes = {case["dtype"] for case in json.loads(file.read_text())["contracts"]["lora_merge"]["cases"]}
    assert dtypes >= set(DTYPES) - {"bfloat16"}
    assert "bfloat16" not in dtypes


@pytest.mark.slow
def test_bfloat16_without_ml_dtypes_is_one_sentence():
    done = without_ml_dtypes("self", "--dtype", "float32,bfloat16")
    assert done.returncode == 2
    assert done.stderr == "npl-lora: bfloat16 needs ml_dtypes: pip install 'npl-lora[files]'\n"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("def lora_linear(case): raise ValueError('no such thing')", 1, "ValueError: no such thing"),
        ("def lora_linear(case): raise NotImplementedError('not yet')", 2, "not yet"),
        ("def lora_linear(case): return {'y': np.nan}", 1, "dx: missing"),
        ("def lora_linear(case): import os; os._exit(5)", 1, "5"),
        ("def lora_linear(case): case['W'][0] = 0; return {}", 1, "changed its input W"),
        ("def something_else(case): return {}", 2, "contract"),
        ("import there_is_no_such_module", 2, "there_is_no_such_module"),
    ],
)
@pytest.mark.slow
def test_a_subject_that_misbehaves_gets_a_clear_line(tmp_path, body, status, words):
    done = npl_lora_check(write(tmp_path, body), "--dtype", "float32")
    assert done.returncode == status, done.stdout + done.stderr
    assert words in " ".join(done.stdout.split())
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_subject_that_hangs_once_is_cut_off_and_the_check_goes_on(tmp_path):
    body = (
        "import time\nfrom npl_lora.oracle import CONTRACTS\n"
        "def lora_merge(case):\n    if 'plain' in case.id: time.sleep(60)\n"
        "    return CONTRACTS['lora_merge'].answer(case.arrays, case.config)\n"
    )
    file = write(tmp_path, body)
    done, report = report_of(tmp_path, file, "--timeout", "1", "--dtype", "float32")
    verdicts = {case["id"].split("/")[1]: case["verdict"] for case in report["contracts"]["lora_merge"]["cases"]}
    assert done.returncode == 1
    assert [name for name, verdict in verdicts.items() if verdict != "pass"] == ["plain"]
    assert len(verdicts) == len(CONTRACTS["lora_merge"].cases("float32"))


@pytest.mark.slow
def test_a_program_is_asked_through_files(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import json, sys\nfrom safetensors import safe_open\nfrom safetensors.numpy import save_file\n"
        "with safe_open(sys.argv[1], 'np') as f:\n"
        "    case = {name: f.get_tensor(name) for name in f.keys()}\n"
        "    config = json.loads(f.metadata()['config'])\n"
        "s = config['alpha'] / config['r'] ** (0.5 if config['use_rslora'] else 1.0)\n"
        "delta = case['W'].dtype.type(s) * (case['B'] @ case['A'])\n"
        "W = case['W'] + (delta.T if config['fan_in_fan_out'] else delta)\n"
        "save_file({'W_merged': W.copy(), 'W_unmerged': case['W']}, sys.argv[2])\n"
    )
    command = f"{sys.executable} {program} {{case}} {{result}}"
    done, report = report_of(tmp_path, "--exec", command, "--contract", "lora_merge", "--dtype", "float32")
    assert done.returncode == 0, done.stdout + done.stderr
    assert report["verdict"] == "pass"


ENGINE = """
def lora_merge(case):
    s = case.config["alpha"] / case.config["r"] ** (0.5 if case.config["use_rslora"] else 1.0)
    delta = case["W"].dtype.type(s) * (case["B"] @ case["A"])
    return {"W_merged": case["W"] + (delta.T if case.config["fan_in_fan_out"] else delta), "W_unmerged": case["W"]}


def lora_embedding(case):
    s = case.config["alpha"] / case.config["r"] ** (0.5 if case.config["use_rslora"] else 1.0)
    return {"y": case["E"][case["ids"]] + case["E"].dtype.type(s) * (case["A"].T[case["ids"]] @ case["B"].T)}
"""


def test_an_engine_without_a_backward_is_asked_its_values_alone(tmp_path):
    words = (write(tmp_path, ENGINE), "--dtype", "float32", "--html", tmp_path / "page.html")
    done, report = report_of(tmp_path, *words, "--forward")
    assert done.returncode == 0, done.stdout
    assert f"{tmp_path / 'mine.py'}  pass, forward only\n" in done.stdout
    assert (report["verdict"], report["forward_only"]) == ("pass", True)
    assert set(report["contracts"]["lora_embedding"]["cases"][0]["outputs"]) == {"y"}
    assert "pass, forward only" in (tmp_path / "page.html").read_text()
    done, report = report_of(tmp_path, *words)
    assert done.returncode == 1
    assert "the values are right, and can be asked alone (--forward, forward_only)" in done.stdout
    assert "forward_only" not in report


@pytest.mark.slow
def test_a_program_is_asked_its_values_alone(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import json, sys\nfrom safetensors import safe_open\nfrom safetensors.numpy import save_file\n"
        "with safe_open(sys.argv[1], 'np') as f:\n"
        "    case = {name: f.get_tensor(name) for name in f.keys()}\n"
        "    config = json.loads(f.metadata()['config'])\n"
        "s = config['alpha'] / config['r'] ** (0.5 if config['use_rslora'] else 1.0)\n"
        "y = case['E'][case['ids']] + case['E'].dtype.type(s) * (case['A'].T[case['ids']] @ case['B'].T)\n"
        "save_file({'y': y}, sys.argv[2])\n"
    )
    command = f"{sys.executable} {program} {{case}} {{result}}"
    words = ("--exec", command, "--contract", "lora_embedding", "--dtype", "float32")
    assert report_of(tmp_path, *words, "--forward")[0].returncode == 0
    assert report_of(tmp_path, *words)[0].returncode == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["no_such_file.py"], "no_such_file.py"),
        (["self", "--exec", "true", "--contract", "lora_linear"], "not both"),
        (["--exec", "true {case} {result}"], "--exec needs --contract"),
        (
            ["--exec", "there_is_no_such_program {case} {result}", "--contract", "lora_linear"],
            "there_is_no_such_program",
        ),
        (["self", "--dtype", "float8"], "'float8' is not one of float64, float32, float16"),
        (["self", "--timeout", "-1"], "'-1' is not a positive number of seconds"),
        (["self", "--contract", "rope,lora_nothing"], "'lora_nothing' is not one of lora_linear"),
        (["self", "--contract", "lora_merg"], "did you mean lora_merge?"),
    ],
)
def test_bad_arguments_are_one_sentence_and_exit_2(words, sentence, capsys):
    assert main(["check", *words]) == 2
    out, err = capsys.readouterr()
    assert sentence in out + err
    assert (out + err).count("\n") == 1


def test_a_report_that_cannot_be_written_is_refused(tmp_path, capsys):
    """Before the check where there is no folder for it, else after it."""
    missing = tmp_path / "no" / "report.json"
    assert main(["check", "self", "--json", str(missing)]) == 2
    sentence = f"argument --json: {missing} cannot be written: {missing.parent} is not a folder"
    assert capsys.readouterr() == ("", f"npl-lora: {sentence}; see npl-lora check --help\n")
    assert main(["check", "no_such_file.py", "--json", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"npl-lora: {tmp_path}: Is a directory\n"


@pytest.mark.slow
def test_several_targets_make_one_report(tmp_path):
    done, report = report_of(tmp_path, RIGHT, WRONG)
    assert done.returncode == 1
    assert report["verdict"] == "fail"
    assert [target["verdict"] for target in report["targets"]] == ["pass", "fail"]
