"""What transformers and PEFT said of tiny models of every kind, without them: golden.json has it. See `golden`."""

import json

import numpy as np
import pytest
from light import light
from models import golden

from npl_lora.models import load, load_classifier

RECORDED = json.loads(golden.FILE.read_text())
CASES, RUNS = RECORDED["cases"], RECORDED["training"]


def loaded(path, case, dtype=np.float64):
    """The model of a case and its adapter."""
    name = case.split()[0]
    golden.folders(path, RECORDED["models"][name], CASES[case])
    folder = path / "model"
    model = load_classifier(folder, ("no", "maybe", "yes"), dtype) if name == "bert" else load(folder, dtype)
    return model, model.load_adapter(path / "adapter")


def answers(model, adapter, case):
    """Logits, loss and gradients, as they are recorded."""
    tokens, labels, mask = golden.batch_for(case.split()[0])
    if labels.ndim == 1:
        logits, _ = model.scores(tokens, adapter, key_mask=mask)
    else:
        logits = model.logits(tokens, adapter, key_mask=mask)[0][mask]
    loss, pullback = model.loss(tokens, labels, adapter, key_mask=mask)
    grads = {name: golden.numbers(name, gradient) for name, gradient in pullback(1.0).items()}
    return golden.numbers("logits", logits), float(loss), grads


@pytest.mark.parametrize("case", CASES)
def test_logits_loss_and_gradients(tmp_path, case):
    right = CASES[case]
    logits, loss, grads = answers(*loaded(tmp_path, case), case)
    assert golden.off(logits, right["logits"]) < 1e-10
    assert abs(loss - right["loss"]) < 1e-11 * right["loss"]
    assert grads.keys() == right["gradients"].keys()
    largest = max(gradient[0] for gradient in right["gradients"].values())
    for name, expected in right["gradients"].items():
        if name.endswith("key.bias"):  # it moves all of a query's scores alike: its gradient is 0 but for rounding
            assert max(map(abs, grads[name])) < 1e-12 * largest, name
        else:
            assert golden.off(grads[name], expected) < 1e-9, name


@pytest.mark.parametrize("run", light(RUNS))
def test_the_losses_of_fifty_steps(tmp_path, run):
    """The bounds are those of test_training."""
    lora, schedule, dtype = run.split()
    model, adapter = loaded(tmp_path, f"llama {lora}", np.dtype(dtype))
    batches = [golden.batch(seed) for seed in range(golden.STEPS)]
    losses = golden.our_losses(model, adapter, batches, schedule)
    assert golden.apart(losses, RUNS[run]) < {"float32": 1e-5, "float64": 1e-8}[dtype]


def test_a_wrong_number_is_seen(tmp_path):
    """In whatever tensor, and be it 10^-6 of it: a wrong scale, a sign, two numbers that changed places."""
    case = "llama usual"
    model, adapter = loaded(tmp_path, case)
    tokens, labels, mask = golden.batch()
    grads = model.loss(tokens, labels, adapter, key_mask=mask)[1](1.0)
    for name, gradient in grads.items():
        expected = CASES[case]["gradients"][name]
        swapped, shifted = gradient.copy(), gradient.copy()
        swapped[0, :2] = gradient[0, 1::-1]
        shifted[-1, -1] += 1e-6 * expected[0]
        for wrong in (-gradient, gradient * (1 + 1e-6), gradient[::-1], swapped, shifted):
            assert golden.off(golden.numbers(name, wrong), expected) > 1e-8, name


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_the_recording_is_what_is_recorded_today():
    from models import record_golden

    today = json.loads(record_golden.written(record_golden.record()))
    assert today["models"] == RECORDED["models"]
    assert today["cases"].keys() == CASES.keys()
    for case, right in CASES.items():
        found = today["cases"][case]
        assert (found["config"], found["tensors"]) == (right["config"], right["tensors"]), case
        assert golden.off(found["logits"], right["logits"]) < 1e-12
        assert abs(found["loss"] - right["loss"]) < 1e-12 * right["loss"]
        largest = max(gradient[0] for gradient in right["gradients"].values())
        for name, expected in right["gradients"].items():
            apart = np.abs(np.subtract(found["gradients"][name], expected))
            assert max(apart) < 1e-11 * expected[0] + 1e-14 * largest, name
    for run, losses in RUNS.items():
        assert golden.apart(today["training"][run], losses) < {"float32": 1e-5, "float64": 1e-8}[run.split()[-1]]
