"""The example of a model of Llama 7B's shape, in small: the shape is Llama's, the checkpoint loads, nothing is left."""

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from npl_lora.models import load

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "seven_billion.py"
SMALL = dict(hidden=16, layers=2, heads=4, inner=24, vocabulary=32)


def script():
    spec = importlib.util.spec_from_file_location("seven_billion", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_shape_is_that_of_llama_7b():
    shape = argparse.Namespace(hidden=4096, layers=32, heads=32, inner=11008, vocabulary=32000)
    shards = list(script().tensors(shape))
    assert sum(math.prod(size) for shard in shards for size in shard.values()) == 6_738_415_616  # as published
    assert sum(len(shard) for shard in shards) == len({name for shard in shards for name in shard})


def test_the_checkpoint_is_a_model_in_bfloat16_of_several_shards(tmp_path, monkeypatch):
    example = script()
    monkeypatch.setattr(example, "BLOCK", 100)  # smaller than a tensor, and no divisor of its size
    example.write(tmp_path, argparse.Namespace(**SMALL))
    model = load(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    assert json.loads((tmp_path / "config.json").read_text())["vocab_size"] == 32
    assert model.base.is_coded
    assert (model.base["model.layers.1.input_layernorm.weight"] == 1).all()
    flat = model.base["model.layers.1.mlp.up_proj.weight"].ravel()
    np.testing.assert_array_equal(flat[:100], flat[100:200])
    assert 0.01 < flat.std() < 0.03


@pytest.mark.slow
def test_it_runs_and_leaves_nothing(tmp_path):
    words = [f"--{name}={size}" for name, size in {**SMALL, "length": 8, "steps": 2}.items()]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words, "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    trained = 2 * 2 * 8 * (16 + 16)  # layers, modules, rank, in + out
    assert f"| trained parameters | {trained:,} |" in done.stdout
    assert "1 x 8 tokens, rank 8 on q_proj, v_proj, AdamW, float32, weights coded, 2 steps after one" in done.stdout
    assert list(tmp_path.iterdir()) == []
