"""The rooms of the house: who may import whom, and which modules are private to their package."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import npl_lora

ROOT = Path(npl_lora.__file__).parent

# Each room may import those named with it, and itself. The tower of judgement is oracle; that of work is adapters,
# models and training. Neither looks into the other.
ROOMS = {
    "support": (),
    "ops": ("support",),
    "lora": ("ops", "support"),
    "gradcheck": (),  # it knows only the interface
    "layers": ("lora", "ops", "support"),
    "oracle": ("gradcheck", "lora", "ops", "support"),
    "adapters": ("lora", "ops", "support"),
    "models": ("adapters", "lora", "ops", "support"),
    "training": ("models", "adapters", "lora", "ops", "support"),
    "testing": ("oracle", "support"),
    "pytest_plugin": ("testing", "oracle", "support"),
    "cli": ("oracle", "training", "models", "adapters", "lora", "ops", "support"),
    "checking": ("cli", "oracle", "support"),  # it prints as the command does
    "__main__": ("cli",),
}

# The oracle's rooms, each of which imports only those that stand before it.
ORACLE = (
    "dtypes",
    "one_line",
    "case",
    "definition",
    "tolerance",
    "contracts",
    "why",
    "report",
    "faults",
    "libraries",
    "adoption",
    "subjects",
    "leading",
    "diagnosis",
    "deviations",
    "conventions",
    "check",
    "dumps",
    "vectors",
    "power",
    "page",
)


def module_of(file):
    """npl_lora/ops/linear.py -> ("ops", "linear"); a package's own file -> ("ops",)."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


@cache
def modules():
    return {module_of(file): file for file in sorted(ROOT.rglob("*.py"))}


@cache
def imports():
    """{module: the modules of npl_lora that it imports}, wherever in the file it does so."""
    return {module: set(_imports_of(module, file)) for module, file in modules().items()}


def _imports_of(module, file):
    package = module if file.name == "__init__.py" else module[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            path = tuple(node.module.split(".")) if node.module else ()
            if node.level:
                path = package[: len(package) - node.level + 1] + path
            elif path[:1] == ("npl_lora",):
                path = path[1:]
            else:
                continue
            for alias in node.names:
                yield (*path, alias.name) if (*path, alias.name) in modules() else path
        if isinstance(node, ast.Import):
            for alias in node.names:
                path = tuple(alias.name.split("."))
                if path[0] == "npl_lora":
                    yield path[1:]


def test_every_room_is_known():
    found = {module[0] for module in modules() if module}
    assert found == set(ROOMS)
    assert {module[1] for module in modules() if module[:1] == ("oracle",) and len(module) > 1} == set(ORACLE)


def test_no_room_imports_one_above_it():
    for module, found in imports().items():
        if module:
            allowed = {module[0], *ROOMS[module[0]]}
            assert {path[0] for path in found if path} <= allowed, f"{module} imports {sorted(found)}"


def test_no_room_of_the_oracle_imports_one_after_it():
    for module, found in imports().items():
        if module[:1] == ("oracle",) and len(module) > 1:
            place = ORACLE.index(module[1])
            later = [path for path in found if path[:1] == ("oracle",) and len(path) > 1]
            assert [path for path in later if ORACLE.index(path[1]) > place] == [], module


def test_a_private_module_is_imported_in_its_own_package_alone():
    for module, found in imports().items():
        for path in found:
            for depth, name in enumerate(path):
                if name.startswith("_"):
                    assert module[:depth] == path[:depth], f"{module} imports {path}"


def test_no_modules_import_each_other_in_a_circle():
    """A package's own file counts as what it gathers: an import of `oracle.contracts` is one of all that it imports."""
    done, waiting = set(), []

    def visit(module):
        assert module not in waiting, [*waiting[waiting.index(module) :], module]
        if module not in done:
            waiting.append(module)
            for path in sorted(imports()[module] - {module}):
                visit(path)
            done.add(waiting.pop())

    for module in modules():
        visit(module)


@pytest.mark.parametrize(
    ("tower", "other"),
    [("oracle", ("adapters", "models", "training")), ("training", ("oracle", "gradcheck"))],
    ids=["judgement", "work"],
)
def test_a_tower_loads_nothing_of_the_other(tower, other):
    code = f"import sys, npl_lora.{tower}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert f"npl_lora.{tower}" in loaded
    assert [name for name in loaded if name.startswith("npl_lora.") and name.split(".")[1] in other] == []
