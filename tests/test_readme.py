"""Every command and snippet of every README runs as printed. (.ci/run runs the two that make virtual environments.)"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import record_readme

import npl_lora
from npl_lora.oracle import CONTRACTS

ROOT = Path(npl_lora.__file__).parents[1]
README = "README.md"
PAGES = [README, *(f"npl_lora/{room}/README.md" for room in ("ops", "oracle", "models", "training")), "CONTRIBUTING.md"]
LINKED = [*PAGES, "CHANGELOG.md", "npl_lora/oracle/PROTOCOL.md", "npl_lora/oracle/FAULTS.md"]
FILE = re.compile(r"# ([\w/]+\.(?:py|toml|md))\n")  # the first line of a block that is a file of this name


def text(page):
    return (ROOT / page).read_text(encoding="utf-8")


def sections(page):
    """The page, cut before each heading of the second level."""
    return re.split(r"^(?=## )", text(page), flags=re.M)


def changes_the_code(section):
    """Whether it shows how to change the project: it is followed in a copy (see below)."""
    return section.startswith("## Add a")


def blocks_of(section):
    return re.findall(r"^```(\w+)\n(.*?)^```", section, flags=re.M | re.S)


@cache
def blocks(page):
    """(language, code) of each block of the page."""
    return [block for section in sections(page) if not changes_the_code(section) for block in blocks_of(section)]


def files(page):
    return {found[1]: code for _, code in blocks(page) if (found := FILE.match(code))}


def commands(page):
    lines = [line for kind, code in blocks(page) if kind == "sh" for line in code.splitlines()]
    return [line for line in lines if line.startswith("npl-lora ")]


def all_commands(*, torch):
    """Those that need no real model, and torch or not. The one of the README is checked with what it prints."""
    pairs = [
        (page, command)
        for page in PAGES
        for command in commands(page)
        if not re.search(r"\$MODEL|dumps| hamlet$", command)
    ]
    pairs.remove((README, record_readme.COMMAND))
    return [(page, command) for page, command in pairs if bool(re.search("peft|our_layers?", command)) == torch]


@pytest.fixture
def folder(request, tmp_path):
    """A folder with the files of the page, and the examples."""
    for name, code in files(request.getfixturevalue("page")).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(code, encoding="utf-8")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


def run(command, folder):
    words = shlex.split(command.replace("'python ", f"'{sys.executable} "))
    return subprocess.run([sys.executable, "-m", "npl_lora", *words[1:]], cwd=folder, capture_output=True, text=True)


def shell(lines, folder, **environment):
    """Lines of a shell, with this interpreter for npl-lora, pytest and python."""
    script = re.sub(r"^pytest ", "python -m pytest ", "\n".join(lines), flags=re.M)
    script = re.sub(r"^npl-lora ", "python -m npl_lora ", script, flags=re.M)
    script = re.sub(r"\bpython ", f"{shlex.quote(sys.executable)} ", script)
    environment = os.environ | environment
    done = subprocess.run(["bash", "-ec", script], cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_snippets(page):
    """The snippets of the page, in order, in one namespace."""
    namespace = {}
    for kind, code in blocks(page):
        if kind == "python" and not FILE.match(code):
            exec(compile(code, page, "exec"), namespace)
    return namespace


@pytest.mark.parametrize("page", PAGES)
def test_the_snippets_run_in_order(page):
    run_snippets(page)


def test_the_snippets_do_what_the_pages_say(capsys):
    page = "npl_lora/ops/README.md"
    first = next(code for kind, code in blocks(page) if kind == "python")
    exec(compile(first, page, "exec"), {})
    assert capsys.readouterr().out == first.rsplit("# ", 1)[1]
    namespace = run_snippets(page)
    assert namespace["y"].shape == (2, 10, 512)
    assert capsys.readouterr().out.count(": ok") == 2
    run_snippets(README)
    assert capsys.readouterr().out.count(": ok") == 1


def test_the_op_of_the_readme_is_lora_linear():
    namespace = run_snippets(README)
    x, W, A, B = (namespace[name] for name in ("x", "W", "A", "B"))
    y, pullback = namespace["lora_linear"](x, W, A, B, 0.5)
    right, right_pullback = npl_lora.ops.lora_linear(x, W, A, B, scale=0.5)
    assert (y == right).all()
    for name, grad in pullback(y).items():
        assert (grad == right_pullback(y)[name]).all()


def test_the_readme_shows_what_check_prints_and_draws():
    """After a change of either: python tests/record_readme.py."""
    status, printed, page = record_readme.check((ROOT / record_readme.WRONG).read_text(encoding="utf-8"))
    assert status == 1
    assert record_readme.block(printed) == record_readme.BETWEEN.search(text(README))[0]
    assert record_readme.picture(page) == record_readme.PICTURE.read_text(encoding="utf-8")


@pytest.mark.torch
def test_the_readme_shows_what_is_said_of_its_layers():
    """After a change: python tests/record_readme.py, where torch is installed."""
    status, printed = record_readme.check_layers(files(README)["our_layers.py"])
    assert status == 1
    assert record_readme.block(printed) == record_readme.LAYERS.search(text(README))[0]


def test_the_fault_of_the_readme_is_mended_by_its_s():
    wrong = (ROOT / record_readme.WRONG).read_text(encoding="utf-8")
    right = wrong.replace('dB = np.einsum("no', 'dB = s * np.einsum("no')
    status, printed, _ = record_readme.check(right)
    assert status == 0
    assert re.search(r"pass +44/44", printed)


@pytest.mark.slow
@pytest.mark.parametrize(("page", "command"), all_commands(torch=False))
def test_the_commands_run(page, command, folder):
    done = run(command, folder)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("page", ["npl_lora/oracle/README.md"])
def test_the_tests_of_the_page_pass(page, folder):
    lines = [line for kind, code in blocks(page) if kind == "sh" for line in code.splitlines()]
    (command,) = (line for line in lines if line.startswith("pytest "))
    words = [sys.executable, "-m", "pytest", "-p", "npl_lora.pytest_plugin", *shlex.split(command)[1:]]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "13 passed, 9 deselected" in done.stdout


@pytest.mark.parametrize("page", ["npl_lora/oracle/README.md"])
def test_the_case_that_is_asked_by_hand_is_right(page, folder):
    *ids, y, dx, dA, dB = shell(["python one_case.py"], folder, PYTHONPATH=str(ROOT)).splitlines()
    assert ids == [case.id for case in CONTRACTS["lora_linear"].cases("float32")]
    for name, line in zip(("y", "dx", "dA", "dB"), (y, dx, dA, dB), strict=True):
        assert line.split()[0] == name
        assert 0.0 < float(line.split()[1]) < 1e-4  # float32's rounding of numbers near 1


@pytest.mark.torch
@pytest.mark.parametrize(("page", "command"), all_commands(torch=True))
def test_the_commands_that_need_torch_run(page, command, folder):
    done = run(command, folder)
    assert done.returncode in (0, 1), done.stdout + done.stderr  # PEFT's true verdict is recorded elsewhere


@pytest.mark.torch
def test_the_layer_of_the_readme_passes_its_own_tests(tmp_path):
    (tmp_path / "our_layers.py").write_text(files(README)["our_layers.py"], encoding="utf-8")
    code = files("npl_lora/oracle/README.md")["test_our_layer.py"]
    (tmp_path / "test_our_layer.py").write_text(code, encoding="utf-8")
    words = [sys.executable, "-m", "pytest", "-p", "npl_lora.pytest_plugin", "-q"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.torch
@pytest.mark.parametrize("page", ["npl_lora/oracle/README.md"])
@pytest.mark.parametrize(("script", "dumps"), [("one_step.py", "dumps"), ("own_step.py", "own_dumps")])
def test_the_step_that_is_recorded_is_judged(page, folder, script, dumps):
    # PEFT adapts nothing if an older torchao is installed, which torchtune needs. None in sys.modules hides it.
    hidden = "import sys; sys.modules['torchao'] = None\n"
    (folder / script).write_text(hidden + files(page)[script], encoding="utf-8")
    subprocess.run([sys.executable, script], cwd=folder, check=True)
    assert f"npl-lora judge {dumps}" in commands(page)
    done = run(f"npl-lora judge {dumps}", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    scale = "s = alpha = 0.5, not alpha / r: at r = 4 this is alpha = 2 in PEFT"
    assert script == "one_step.py" or (scale in done.stdout and scale in text(page))


@pytest.mark.models
@pytest.mark.parametrize("page", ["npl_lora/models/README.md"])
def test_the_real_model_runs(page, folder):
    """The block of the shell as printed, without its installing, and then the file."""
    block = next(code for kind, code in blocks(page) if kind == "sh" and "MODEL=" in code)
    lines = [line for line in block.splitlines() if not line.startswith("pip ")]
    printed = shell([*lines, "python one_batch.py", "ls adapter"], folder)
    assert printed.startswith(" Paris.")
    assert printed.endswith("120\nadapter_config.json\nadapter_model.safetensors\n")


@pytest.mark.models
@pytest.mark.parametrize(("page", "number"), [(README, 3), ("npl_lora/training/README.md", 6)])
def test_the_real_model_learns(page, number, folder):
    """The lines that find the model and the text, train, and use what was trained, with less to read and two steps."""
    (folder / "data").mkdir()
    (folder / "data" / "hamlet.txt").write_text("HAMLET\nTo be, or not to be, that is the question.\n" * 40)
    lines = [line for kind, code in blocks(page) if kind == "sh" for line in code.splitlines()]
    exports = [line for line in lines if line.startswith("export ")]
    used = [line for line in lines if line.startswith("npl-lora ") and re.search(r"\$MODEL| hamlet$", line)]
    assert len(used) == number
    found = 'ls "$DATA/hamlet.txt"'
    used = [line.replace("--steps 100", "--steps 2") for line in used]
    printed = shell([*exports, found, "export DATA=data", *used, "ls hamlet"], folder)
    assert "adapter_model.safetensors" in printed
    if page != README:
        merged = {path.name for path in (folder / "smollm2-hamlet").iterdir()}
        assert merged == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


def follow(code, folder):
    """Write a block that is a file; of a diff, change the one place where its old lines stand."""
    name, body = FILE.match(code)[1], code.split("\n", 1)[1]
    if not re.match(r"[ +-]", body):
        (folder / name).write_text(body, encoding="utf-8")
        return
    lines = body.splitlines(keepends=True)
    old, new = ("".join(line[1:] for line in lines if line[0] in signs) for signs in (" -", " +"))
    there = (folder / name).read_text(encoding="utf-8")
    assert there.count(f"\n{old}") == 1, f"{name} has not, or not once:\n{old}"
    (folder / name).write_text(there.replace(f"\n{old}", f"\n{new}"), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("title", ["Add a fault", "Add an op", "Add a contract"])
def test_a_worked_example_works_when_it_is_followed(title, tmp_path):
    """In a copy of the project: the changes as printed, then the commands."""
    (section,) = (section for section in sections("CONTRIBUTING.md") if section.startswith(f"## {title}\n"))
    for name in ("npl_lora", "tests", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", *LINKED):
        shutil.copy(ROOT / name, tmp_path / name)
    for kind, code in blocks_of(section):
        if kind in ("python", "diff"):
            follow(code, tmp_path)
    lines = [line for kind, code in blocks_of(section) if kind == "sh" for line in code.splitlines()]
    shell(lines, tmp_path, PYTHONPATH=str(tmp_path), CI="1")  # CI: the same examples of Hypothesis each time


def test_the_readme_is_short():
    assert len(text(README).split()) <= 1900


def test_every_room_has_commands_and_files():
    assert set(files("npl_lora/oracle/README.md")) == {
        "mine.py", "settings.py", "one_case.py", "engine.py", "test_mine.py", "test_our_layer.py", "program.py",
        "one_step.py", "own_step.py", "deviations.toml",
    }  # fmt: skip
    assert len(commands("npl_lora/oracle/README.md")) == 9
    assert text(README).count("\npython3 -m venv ") == 2  # .ci/run runs both


@pytest.mark.parametrize("page", LINKED)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\((?!http|#)([^)#]+)", text(page)):
        assert ((ROOT / page).parent / target).exists(), target
