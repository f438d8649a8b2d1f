"""Golden numbers: what transformers and PEFT say about tiny models that anybody can make again, without them.

Every number of such a model follows from its tensor's name alone, by PCG64's raw stream, so that it has the same bits
on every machine and with every version of NumPy. golden.json has the configurations and the names and shapes of the
tensors, as transformers and PEFT wrote them, and the answers. `record_golden.py` makes it.

An array is recorded as its norm and its products with three random vectors of variance 1. The products of an array
whose error is e are wrong by about |e|, each of the three for itself: if |e| is 1,000 times what is allowed, all three
look right about once in 10^9 times. (The norm alone knows neither signs nor places.)
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from npl_lora.oracle.contracts.draw import Draw
from npl_lora.training.step import Batch, Recipe, State, train_step

FILE = Path(__file__).with_name("golden.json")
STEPS, VOCABULARY = 50, 61


def values(name, shape):
    """The numbers of the tensor of this name: about 1 for a norm's weight, about 0 for all others."""
    numbers = 0.3 * Draw(name, "float64").standard(*shape)
    return 1.0 + numbers if len(shape) == 1 and name.endswith(".weight") else numbers


def ours(name):
    """A tensor's name here by its name in PEFT: in its files, or with the adapter's own name in the model."""
    for part in (".default", ".base_layer", ".modules_to_save", ".original_module"):
        name = name.replace(part, "")
    name += ".weight" if name.endswith("lora_magnitude_vector") else ""  # which the file leaves out
    return name.removeprefix("base_model.model.")


def batch(seed=0):
    """Padded on the right, with ignored labels: tokens, labels, mask."""
    draw, shape = Draw(f"batch {seed}", "float64"), (3, 13)
    tokens = draw.integers(VOCABULARY, *shape)
    mask = np.arange(13) < np.array([[13], [9], [4]])
    return tokens, np.where(mask & (draw.integers(5, *shape) > 0), tokens, -100), mask


def batch_for(name):
    """The batch of a case: of sentences to be classified, one of them not counted, for BERT."""
    tokens, labels, mask = batch()
    return (tokens, np.array([2, -100, 0]), mask) if name == "bert" else (tokens, labels, mask)


def folders(path, model, case):
    """The model's folder, path / "model", and the adapter's, path / "adapter"."""
    for folder, config, file, about, shapes in (
        (path / "model", "config.json", "model.safetensors", model["config"], model["tensors"]),
        (path / "adapter", "adapter_config.json", "adapter_model.safetensors", case["config"], case["tensors"]),
    ):
        folder.mkdir()
        (folder / config).write_text(json.dumps(about))
        tensors = {name: values(ours(name), tuple(shape)) for name, shape in shapes.items()}
        save_file(tensors, folder / file, {"format": "pt"})


def numbers(name, array):
    """What is recorded of an array: its norm and three products."""
    flat = array.reshape(-1)
    vectors = Draw(f"{name} recorded", "float64").standard(3, flat.size)
    return [float(np.linalg.norm(flat)), *(float(product) for product in vectors @ flat)]


def off(got, right):
    """How far recorded numbers are apart, as a share of the array's norm."""
    return max(abs(a - b) for a, b in zip(got, right, strict=True)) / right[0]


def our_losses(model, adapter, batches, schedule, lr=5e-3):
    """The loss before each of the steps that `their_losses` of test_training takes with torch."""
    recipe = Recipe(steps=STEPS, lr=lr, weight_decay=0.01, warmup=5, schedule=schedule)
    state, losses = State(adapter), []
    for tokens, labels, mask in batches:
        state, metrics = train_step(model, state, [Batch(tokens, labels, mask)], recipe)
        losses.append(metrics.loss)
    return losses


def apart(losses, right):
    assert np.ptp(right) > 0.1  # they do move
    return max(abs(a - b) / b for a, b in zip(losses, right, strict=True))
