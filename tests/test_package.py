"""What the package promises as a package: NumPy alone, clear sentences for what is missing, a version in one place."""

import subprocess
import sys
import tomllib
from pathlib import Path

import npl_lora

ROOT = Path(npl_lora.__file__).parents[1]


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_importing_everything_but_the_command_line_needs_numpy_alone():
    code = (
        "import sys, numpy.random\nbefore = set(sys.modules)\n"
        "import npl_lora, npl_lora.ops, npl_lora.gradcheck, npl_lora.layers, npl_lora.training, npl_lora.oracle\n"
        "import npl_lora.testing\n"
        "top = {name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)\n"
        "print(sorted(name for name in top if not name.startswith('_')))"
    )
    assert python(code).stdout.strip() == "['npl_lora']"


def test_a_missing_extra_is_one_sentence():
    code = "import sys\nsys.modules['rich'] = None\nfrom npl_lora.cli import main\nsys.exit(main(['check', 'self']))"
    done = python(code)
    assert done.returncode == 2
    assert done.stderr == "npl-lora: the command line needs rich: pip install 'npl-lora[cli]'\n"


def test_the_version_stands_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["dynamic"] == ["version"]
    assert project["dependencies"] == ["numpy>=2"]
    done = subprocess.run([sys.executable, "-m", "npl_lora", "--version"], capture_output=True, text=True)
    assert done.stdout == f"npl-lora {npl_lora.__version__}\n"
