"""A loss or a gradient that is not finite is named with the first op that gave one, and its place."""

import numpy as np
import pytest
from models import tiny

from npl_lora.adapters import LoRAConfig
from npl_lora.models import load
from npl_lora.training.data import Row
from npl_lora.training.loop import evaluate_rows
from npl_lora.training.nonfinite import origin
from npl_lora.training.step import Batch, NonFiniteError, Recipe, State, gradients, train_step

LAYER = "model.layers.1"
BATCHES = [Batch(*tiny.tokens(0)), Batch(*tiny.tokens(1))]
CONFIG = LoRAConfig(r=2, target_modules=["q_proj", "down_proj"])


def loaded(tmp_path, kind="llama", **changed):
    """A model with tensors multiplied."""

    def change(arrays):
        for name, factor in changed.items():
            arrays[name] *= np.float32(factor)

    with np.errstate(all="ignore"):
        return load(tiny.folder(tmp_path, kind, dtype="float32", change=change), allow_nonfinite=True)


def said(model, adapter):
    with pytest.raises(NonFiniteError) as raised:
        train_step(model, State(adapter, step=11), BATCHES, Recipe(steps=50))
    return str(raised.value)


@pytest.mark.parametrize(
    ("kind", "changed", "sentence"),
    [
        ("llama", {f"{LAYER}.mlp.{n}_proj.weight": 1e25 for n in ("gate", "up")}, f"in glu at {LAYER}.mlp"),
        ("llama", {f"{LAYER}.self_attn.o_proj.weight": np.nan}, f"in {LAYER}.self_attn.o_proj.weight, which is not"),
        ("llama", {"model.norm.weight": np.inf}, "in model.norm.weight, which is not"),
        ("llama", {f"{LAYER}.self_attn.{n}_proj.weight": 1e20 for n in "qk"}, f"in attention at {LAYER}.self_attn"),
        ("llama", {f"{LAYER}.self_attn.{n}_proj.weight": 1e25 for n in "vo"}, f"in linear at {LAYER}.self_attn.o_proj"),
        ("llama", {"model.norm.weight": 1e25, "lm_head.weight": 1e25}, "in linear at lm_head"),
        ("llama-tied", {"model.embed_tokens.weight": np.nan}, "in model.embed_tokens.weight, which is not"),
        ("gpt2", {"h.1.mlp.c_fc.weight": np.nan}, "in transformer.h.1.mlp.c_fc.weight, which is not"),
    ],
)  # fmt: skip
def test_a_loss(tmp_path, kind, changed, sentence):
    model = loaded(tmp_path, kind, **changed)
    adapter = model.attach(LoRAConfig(r=2) if kind == "gpt2" else CONFIG, rng=1)
    found = said(model, adapter)
    assert found.startswith("the loss is ")
    assert found.removesuffix(" finite itself").endswith(f" in step 12: first {sentence}")
    row = Row(BATCHES[0].tokens[0], BATCHES[0].tokens[0])
    with pytest.raises(NonFiniteError, match=f"the held-out loss is .*: first {sentence}"):
        evaluate_rows(model, adapter, [row, row], micro=1, padding=0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_parameter_of_the_adapter(tmp_path, value):
    model = loaded(tmp_path)
    adapter = model.attach(CONFIG, rng=1)
    name = f"{LAYER}.mlp.down_proj.lora_A.weight"
    broken = np.full_like(adapter.parameters[name], value)
    found = said(model, adapter.with_parameters({**adapter.parameters, name: broken}))
    assert found == f"the loss is nan in step 12: first in {name}, which is not finite itself"


def test_a_product_of_the_adapter(tmp_path):
    model = loaded(tmp_path)
    adapter = model.attach(CONFIG, rng=1)
    large = {n: p * 0 + 1e20 if LAYER in n and "down_proj" in n else p for n, p in adapter.parameters.items()}
    found = said(model, adapter.with_parameters(large))
    assert found.endswith(f"in step 12: first in lora_linear at {LAYER}.mlp.down_proj")


def test_a_gradient_alone(tmp_path):
    """B is 0, so the loss is as before, and dB = s dy^T (x A^T) is too large."""
    model = loaded(tmp_path)
    adapter = model.attach(LoRAConfig(r=1, lora_alpha=9e29, target_modules=["q_proj"]), rng=1)
    A = f"{LAYER}.self_attn.q_proj.lora_A.weight"
    found = said(model, adapter.with_parameters({**adapter.parameters, A: adapter.parameters[A] * 0 + 1e14}))
    B = A.replace("lora_A", "lora_B")
    at = f"first in the pullback of lora_linear at {LAYER}.self_attn.q_proj"
    assert found == f"the gradient of {B} is not finite in step 12: {at}"


def test_a_sum_that_no_op_makes(tmp_path):
    """As on a residual path: two numbers are finite, and their sum is not."""

    def run(ops):
        large = np.full((1, 2), 3e38, np.float32)
        _, pullback = ops.at("a.b").silu(large)
        pullback(large + large)

    model = loaded(tmp_path)
    assert origin(run, model) == ": first in the input of the pullback of silu at a.b"
    assert origin(lambda ops: ops.silu(np.array([np.inf])), model) == ": first in an input of silu"


def test_where_all_is_finite_nothing_is_found_and_nothing_is_changed(tmp_path):
    model = loaded(tmp_path)
    state, recipe = State(model.attach(CONFIG, rng=1)), Recipe(steps=9)
    seen = []
    assert origin(lambda ops: seen.append(gradients(model, state, BATCHES, recipe, ops)), model, state.adapter) == ""
    loss, grads = gradients(model, state, BATCHES, recipe)
    assert seen[0][0] == loss
    for name, gradient in grads.items():
        np.testing.assert_array_equal(seen[0][1][name], gradient)
