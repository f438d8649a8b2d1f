"""The agreement with transformers and PEFT, without them: see `golden`."""

import json
from functools import partial

import numpy as np
import pytest
from models import golden

from npl_lora.models import load, load_classifier

RECORDED = json.loads(golden.FILE.read_text(encoding="utf-8"))
VOCABULARY = 61


def model_of(name, folder, dtype=np.float64):
    """The model, and a batch for it."""
    if name == "bert":
        return load_classifier(folder, golden.CLASSES, dtype=dtype), golden.texts(VOCABULARY)
    return load(folder, dtype=dtype), golden.batch(VOCABULARY)


@pytest.mark.parametrize("case", RECORDED["cases"])
def test_logits_loss_and_gradients(tmp_path, case):
    name, right = case.split(" ", 1)[0], RECORDED["cases"][case]
    golden.folders(tmp_path, RECORDED["models"][name], right)
    model, (tokens, labels, mask) = model_of(name, tmp_path / "model")
    adapter = model.load_adapter(tmp_path / "adapter")
    forward = partial(model.scores if name == "bert" else model.logits, tokens, adapter, key_mask=mask)
    logits = forward()[0] if name == "bert" else forward()[0][mask]
    loss, pullback = model.loss(tokens, labels, adapter, key_mask=mask)
    grads = pullback(1.0)

    assert golden.off(golden.numbers("logits", logits), right["logits"]) < 1e-10
    assert abs(float(loss) - right["loss"]) < 1e-11 * right["loss"]
    assert grads.keys() == right["gradients"].keys()
    largest = max(expected[0] for expected in right["gradients"].values())
    for parameter, expected in right["gradients"].items():
        if parameter.endswith("key.bias"):  # it does not change a softmax: its gradient is 0 but for rounding
            assert np.linalg.norm(grads[parameter]) < 1e-12 * largest, parameter
        else:
            assert golden.off(golden.numbers(parameter, grads[parameter]), expected) < 1e-9, parameter


@pytest.mark.parametrize("run", RECORDED["training"])
def test_losses_of_fifty_steps(tmp_path, run):
    lora, schedule, dtype = run.split(" ")
    golden.folders(tmp_path, RECORDED["models"]["llama"], RECORDED["cases"][f"llama {lora}"])
    model = load(tmp_path / "model", dtype=dtype)
    batches = [golden.batch(VOCABULARY, seed) for seed in range(golden.STEPS)]
    losses = golden.our_losses(model, model.load_adapter(tmp_path / "adapter"), batches, schedule)
    assert golden.apart(losses, RECORDED["training"][run]) < golden.BOUNDS[dtype]


@pytest.mark.parametrize("e", [1e-8, 1e-4, 1.0])
def test_what_is_recorded_of_an_array_shows_an_error(e):
    """Any of size e, of the norm unchanged too: an entry, a sign, an exchange of two rows."""
    right = golden.values("right", (6, 5))
    for name, wrong in (("entry", np.eye(6, 5)), ("noise", golden.values("noise", (6, 5)))):
        got = right + e * np.linalg.norm(right) * wrong / np.linalg.norm(wrong)
        assert golden.off(golden.numbers("right", got), golden.numbers("right", right)) > 0.05 * e, name
    for got in (right[::-1], -right, np.where(np.eye(6, 5) == 1, -right, right)):
        assert golden.off(golden.numbers("right", got), golden.numbers("right", right)) > 0.05


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_the_recording_is_what_they_say_today():
    pytest.importorskip("torch")
    from models.record_golden import record

    now = record()
    assert now["models"] == RECORDED["models"]
    assert now["cases"].keys() == RECORDED["cases"].keys()
    for name, case in now["cases"].items():
        before = RECORDED["cases"][name]
        assert (case["config"], case["tensors"]) == (before["config"], before["tensors"])
        assert golden.off(case["logits"], before["logits"]) < 1e-12
        assert abs(case["loss"] - before["loss"]) < 1e-12 * before["loss"]
    for run, losses in now["training"].items():
        assert golden.apart(losses, RECORDED["training"][run]) < golden.BOUNDS[run.split(" ")[2]]
