"""The examples run, and are as right and as wrong as they say."""

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from npl_lora import ops
from npl_lora.oracle.case import Case

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
NAMES = ("my_lora", "my_lora_with_a_fault")
CASES = [(leading, use_rslora, full) for leading in ((), (7,), (2, 3, 4)) for use_rslora in (0, 1) for full in (0, 1)]


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_case(leading, use_rslora, full):
    """A case in general position: in, out and r differ, s is neither 0 nor 1, B is not zero."""
    rng = np.random.default_rng(0)
    in_, out, r = 6, 5, 3
    shapes = dict(x=(*leading, in_), W=(out, in_), A=(r, in_), B=(out, r), dy=(*leading, out))
    arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    if full:
        arrays |= {"b": rng.standard_normal(out), "mask": 2.0 * (rng.random((*leading, in_)) < 0.5)}
    config = {"r": r, "alpha": 5.0, "use_rslora": bool(use_rslora)}
    return Case("lora_linear", "lora_linear/test", "float64", config, arrays)


def right_answer(case):
    s = case.config["alpha"] / (math.sqrt(3) if case.config["use_rslora"] else 3)
    arrays = {name: array for name, array in case.arrays.items() if name != "dy"}
    y, pullback = ops.lora_linear(**arrays, scale=s)
    return {"y": y, **{f"d{name}": grad for name, grad in pullback(case["dy"]).items()}}, s


@pytest.mark.parametrize(("leading", "use_rslora", "full"), CASES)
def test_my_lora_is_right(leading, use_rslora, full):
    case = make_case(leading, use_rslora, full)
    right, _ = right_answer(case)
    mine = load("my_lora").lora_linear(case.copy())
    assert set(mine) == set(right)
    for name in right:
        np.testing.assert_allclose(mine[name], right[name], rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(("leading", "use_rslora", "full"), CASES)
def test_the_fault_is_in_dB_alone_and_is_the_scale(leading, use_rslora, full):
    case = make_case(leading, use_rslora, full)
    right, s = right_answer(case)
    mine = load("my_lora_with_a_fault").lora_linear(case.copy())
    assert set(mine) == set(right)
    for name in ("y", "dx", "dA"):
        np.testing.assert_allclose(mine[name], right[name], rtol=1e-12, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(mine["dB"], right["dB"] / s, rtol=1e-12, atol=1e-12)
    assert not np.allclose(mine["dB"], right["dB"], rtol=0.1)


def test_the_two_differ_in_one_line_of_code():
    right, wrong = ((EXAMPLES / f"{name}.py").read_text().split("import numpy", 1)[1].splitlines() for name in NAMES)
    assert len(right) == len(wrong)
    assert len([1 for a, b in zip(right, wrong, strict=True) if a != b]) == 1


def test_course_layer_runs_and_recovers_what_was_planted():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = str(EXAMPLES / "course_layer.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "trainable: 4,096 numbers" in done.stdout
    assert "frozen:    262,144 numbers" in done.stdout
    assert "recovered the planted change" in done.stdout
