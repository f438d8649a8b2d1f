"""Every command and snippet in the README runs as printed. (The two that make virtual environments are run by
.ci/run.)"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import npl_lora

ROOT = Path(npl_lora.__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.M | re.S)
FILES = {code.split("\n", 1)[0].removeprefix("# "): code for kind, code in BLOCKS if code.startswith("# ")}
COMMANDS = [line for kind, code in BLOCKS if kind == "sh" for line in code.splitlines() if line.startswith("npl-lora")]


def run(command, folder):
    words = shlex.split(command)
    return subprocess.run([sys.executable, "-m", "npl_lora", *words[1:]], cwd=folder, capture_output=True, text=True)


def test_the_snippets_run_in_order():
    namespace = {}
    for kind, code in BLOCKS:
        if kind == "python" and code not in FILES.values():
            exec(compile(code, "README.md", "exec"), namespace)
    assert namespace["y"].shape == (2, 10, 512)


def test_the_printed_comments_are_what_is_printed(capsys):
    code = next(code for kind, code in BLOCKS if kind == "python" and "# (2, 10, 6)" in code)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out == code.rsplit("# ", 1)[1]


@pytest.mark.parametrize("command", [c for c in COMMANDS if not re.search("peft|dumps|MODEL", c)])
def test_the_commands_run(command, tmp_path):
    for name, code in FILES.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    done = run(command, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_tests_of_the_readme_pass(tmp_path):
    for name, code in FILES.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    (command,) = (line for kind, code in BLOCKS if kind == "sh" for line in code.splitlines() if line[:7] == "pytest ")
    words = [sys.executable, "-m", "pytest", "-p", "npl_lora.pytest_plugin", *shlex.split(command)[1:]]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "11 passed, 7 deselected" in done.stdout


@pytest.mark.torch
@pytest.mark.parametrize("command", [c for c in COMMANDS if "peft" in c])
def test_the_commands_that_need_torch_run(command, tmp_path):
    done = run(command, tmp_path)
    assert done.returncode in (0, 1), done.stdout + done.stderr  # PEFT's true verdict is recorded elsewhere


@pytest.mark.torch
def test_the_step_that_is_recorded_is_judged(tmp_path):
    # PEFT adapts nothing where an older torchao is installed, which torchtune needs: None says that there is none.
    hidden = "import sys; sys.modules['torchao'] = None\n"
    (tmp_path / "one_step.py").write_text(hidden + FILES["one_step.py"], encoding="utf-8")
    subprocess.run([sys.executable, "one_step.py"], cwd=tmp_path, check=True)
    done = run("npl-lora judge dumps", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.models
def test_the_real_model_runs(tmp_path):
    """The block of the shell as printed, without its installing, and then the file."""
    block = next(code for kind, code in BLOCKS if kind == "sh" and "MODEL=" in code)
    lines = [line for line in block.splitlines() if not line.startswith("pip ")]
    lines = [line.replace("npl-lora ", "python -m npl_lora ") for line in lines]
    (tmp_path / "one_batch.py").write_text(FILES["one_batch.py"], encoding="utf-8")
    script = "\n".join([*lines, "python one_batch.py", "ls adapter"]).replace("python", shlex.quote(sys.executable))
    done = subprocess.run(["bash", "-ec", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(" Paris.")
    assert done.stdout.endswith("120\nadapter_config.json\nadapter_model.safetensors\n")


@pytest.mark.models
def test_the_real_model_learns(tmp_path):
    """The blocks that train and that use what was trained, with less to read and two steps."""
    (tmp_path / "hamlet.txt").write_text("HAMLET\nTo be, or not to be, that is the question.\n" * 40)
    blocks = [code for kind, code in BLOCKS if kind == "sh"]
    find = next(code for code in blocks if "MODEL=" in code).splitlines()[1]
    lines = [
        line for code in blocks if re.search("npl-lora (train|eval|merge) .*MODEL", code) for line in code.splitlines()
    ]
    lines = [line for line in lines if line.startswith("npl-lora")]
    script = "\n".join([find, f"export DATA={tmp_path}", *lines, "ls hamlet smollm2-hamlet"])
    script = script.replace("npl-lora ", "python -m npl_lora ").replace("--steps 100", "--steps 2")
    script = script.replace("python", shlex.quote(sys.executable))
    done = subprocess.run(["bash", "-ec", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(lines) == 4
    assert "adapter_model.safetensors" in done.stdout
    assert done.stdout.endswith("config.json\nmodel.safetensors\ntokenizer.json\ntokenizer_config.json\n")


def test_there_are_commands_and_files():
    assert len(COMMANDS) >= 2
    assert "mine.py" in FILES


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
